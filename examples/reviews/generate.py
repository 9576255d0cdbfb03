"""Write a file of made-up reviews with the columns of the real one: reviewerId, vendorId, rating, date.

python generate.py --reviews 100000 > reviews.csv
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

START = datetime(2006, 4, 1)
DAYS = 1800
RATINGS = (5, 5, 5, 5, 4, 4, 3, 2, 1)


def reviews(count: int, vendors: int, seed: int) -> Iterator[tuple[int, int, int, str]]:
    """Reviews by reviewer, vendor, rating and minute. A few vendors have most of them."""
    chance = random.Random(seed)
    for _ in range(count):
        vendor = min(int(chance.paretovariate(0.6)) - 1, vendors - 1)
        moment = START + timedelta(minutes=chance.randrange(DAYS * 1440))
        yield chance.randrange(count // 3 + 1), vendor, chance.choice(RATINGS), f"{moment:%Y-%m-%d %H:%M}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write made-up reviews as CSV.")
    parser.add_argument("--reviews", type=int, default=100_000, help="number of reviews")
    parser.add_argument("--vendors", type=int, default=247, help="number of vendors")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same file")
    options = parser.parse_args()
    sys.stdout.write("reviewerId,vendorId,rating,date\n")
    for row in reviews(options.reviews, options.vendors, options.seed):
        sys.stdout.write(",".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
