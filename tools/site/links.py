"""Follow every link within a built site.

  python tools/site/links.py _docs    exit 1, naming page and link, when one leads nowhere
"""
import re
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINK = re.compile(r"""<(?:a|img|link|script)\b[^>]*?\b(?:href|src)=["']?([^"'\s>]+)""")
PLACE = re.compile(r"""\b(?:id|name)=["']?([^"'\s>]+)""")
CODE = re.compile(r"<(script|style)\b[^>]*>.*?</\1>", re.DOTALL)


def faults(site: Path) -> list[str]:
    "A line for each link that leads nowhere."
    texts = {page.resolve(): page.read_text(encoding="utf-8") for page in sorted(site.rglob("*.html"))}
    places = {page: {unescape(name) for name in PLACE.findall(text)} for page, text in texts.items()}
    found = []
    for page, text in texts.items():
        if page.name == "404.html": continue            # its links are from the root of the server
        for link in sorted({unescape(link) for link in LINK.findall(CODE.sub("", text))}):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir(): target /= "index.html"
            missing = not target.exists() or (
                parts.fragment and target in places and unquote(parts.fragment) not in places[target])
            if missing: found.append(f"{page.relative_to(site.resolve())}: {link}")
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(f"{len(wrong)} links lead nowhere" if wrong else 0)
