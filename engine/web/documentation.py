"""Pages about the error codes: HTML for people, text for programs.

They are the sections of `docs/errors.md`, which is part of the package as `errors.txt`, a symbolic link in the
repository.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from engine.errors import NOT_FOUND, PUBLISHED_PAGES, RookeryError, codes
from engine.settings import Settings

_FILE = Path(__file__).with_name("errors.txt")
_SECTION = re.compile(r"^### (RK[0-9]{4})\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_CODE_LINK = re.compile(r"#(rk[0-9]{4})")
_STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;max-width:46rem;margin:2.5rem auto;padding:0 1rem;color:#1d2329}"
    "code,pre{font:14px/1.5 ui-monospace,monospace;background:#f1f3f5;border-radius:4px}"
    "code{padding:.1em .3em}pre{padding:.8rem 1rem;overflow-x:auto}pre code{padding:0}"
    "a{color:#0b5fa5}h1{font-size:1.6rem}td{padding:.15rem 1rem .15rem 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#14181c;color:#dde3e8}code,pre{background:#20262c}a{color:#7db8ee}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Vary": "Accept",
}
"""Headers of the pages: a page may not load, run or be embedded in anything."""


@cache
def sections() -> dict[str, str]:
    """The Markdown of each code's section, without its heading."""
    return {m[1]: m[2].strip() + "\n" for m in _SECTION.finditer(_FILE.read_text(encoding="utf-8"))}


async def index(request: Request) -> Response:
    """`GET /docs/errors`: all codes with their titles."""
    listed = [(code.id, code.title) for code in sorted(codes().values(), key=lambda c: c.id)]
    if _prefers_text(request):
        return PlainTextResponse("".join(f"{id} {title}\n" for id, title in listed), headers=HEADERS)
    base = request.app.state.settings
    cells = "".join(
        f'<tr><td><a href="{_page(base, id)}">{id}</a></td><td>{html.escape(title)}</td></tr>' for id, title in listed
    )
    return _document("Errors", f"<h1>Errors</h1><table>{cells}</table>")


async def page(request: Request) -> Response:
    """`GET /docs/errors/CODE`: what a code means and what to do. Raises RK4019 if the code does not exist."""
    code = codes().get(request.path_params["code"].upper())
    if code is None:
        raise RookeryError(NOT_FOUND, "no such error code", hint="/docs/errors lists all codes")
    text = sections()[code.id]
    if _prefers_text(request):
        return PlainTextResponse(f"{code.id}\n\n{text}", headers=HEADERS)
    from markdown_it import MarkdownIt

    settings: Settings = request.app.state.settings
    body = MarkdownIt("commonmark", {"html": False}).render(_with_absolute_links(text, settings))
    all_codes = f'<p><a href="{_page(settings)}">All errors</a></p>'
    return _document(f"{code.id} {code.title}", f"<h1>{code.id}</h1>{body}{all_codes}")


def _page(settings: Settings, code: str = "") -> str:
    """The path of a code's page on this server, as callers reach it, or of the list."""
    base = html.escape((settings.public_url or "").rstrip("/"), quote=True)
    return f"{base}/docs/errors/{code}".rstrip("/")


def _with_absolute_links(text: str, settings: Settings) -> str:
    """Markdown whose links to codes lead to their pages, and all others to the project's repository."""

    def absolute(match: re.Match[str]) -> str:
        target = match[1]
        if code := _CODE_LINK.fullmatch(target):
            return f"]({_page(settings, code[1].upper())})"
        if target.startswith("#"):
            return f"]({PUBLISHED_PAGES}{target})"
        return f"]({PUBLISHED_PAGES.rpartition('/')[0]}/{target})"

    return _LINK.sub(absolute, text)


def _document(title: str, body: str) -> Response:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return HTMLResponse(text, headers=HEADERS)


def _prefers_text(request: Request) -> bool:
    """Whether the header Accept names plain text, and HTML not or with a lower quality."""
    quality: dict[str, float] = {}
    for part in request.headers.get("accept", "").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        try:
            quality[kind] = float(weights[0]) if weights else 1.0
        except ValueError:
            quality[kind] = 0.0
    return quality.get("text/plain", 0.0) > quality.get("text/html", 0.0)


def routes() -> list[Route]:
    return [Route("/docs/errors", index), Route("/docs/errors/{code}", page)]
