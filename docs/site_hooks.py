"""What the site needs beside `docs/`: the guide for contributors as a page, and links that lead out of the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_OUT = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([\w./-]+)(#[\w-]+)?\)")
_IN_ROOT = re.compile(r"\]\(docs/([\w./-]+\.md)")


def on_files(files: Any, config: Any) -> Any:
    """Add CONTRIBUTING.md, whose links go into `docs/`."""
    from mkdocs.structure.files import File

    text = _IN_ROOT.sub(r"](\1", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "contributing.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository that are no pages become their names."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if target == "CONTRIBUTING.md":
            up = "../" * (page.file.src_uri.count("/"))
            return f"[{text}]({up}contributing.md{anchor})"
        lies_in_docs = (here / match[0].partition("](")[2].partition("#")[0].rstrip(")")).resolve()
        return match[0] if lies_in_docs.is_relative_to(ROOT / "docs") else f"`{target}`"

    return _OUT.sub(replace, markdown)
