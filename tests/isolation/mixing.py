"""Per-tenant pipes whose authors were careless, clever or hostile: each must be refused, or keep tenants apart."""

from __future__ import annotations

from tests.isolation.two_tenants import statements

SOURCES: dict[str, str] = {
    "events": """
tenant: tenant
columns:
  - {name: tenant, type: String}
  - {name: kind, type: String}
  - {name: units, type: Int64}
  - {name: arr, type: Array(String)}
  - {name: t, type: "Tuple(tenant String, x Int64)"}
  - {name: e, type: "Tuple(tenant String, kind String)"}
  - {name: j, type: JSON}
engine: {sorting_key: [tenant, kind]}
""",
    "more": """
tenant: {column: tenant, nest_copy: false}
columns:
  - {name: tenant, type: String}
  - {name: kind, type: String}
  - {name: units, type: Int64}
engine: {sorting_key: [tenant, kind]}
""",
    "accounts": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: String}
  - {name: plan, type: String}
  - {name: paid, type: Int64}
engine: {sorting_key: [tenant]}
""",
    # A column of the same name that names no tenant.
    "lands": """
columns:
  - {name: tenant, type: String}
  - {name: kind, type: String}
  - {name: price, type: Int64}
engine: {sorting_key: [kind]}
""",
}


def _titled(kind: str) -> dict[str, str]:
    """The statements of a kind in `mixing.sql`, by title, each on one line."""
    by_title = {}
    for head, text in statements("mixing.sql"):
        if head.startswith(kind):
            by_title[head.removeprefix(f"{kind} ")] = " ".join(text.split("\n")[1:])
    return by_title


REFUSED = _titled("REFUSED")
KEPT = _titled("KEPT")
"""What an honest author writes; some of it joins, windows and unites, always within one tenant."""
