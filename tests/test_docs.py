"""README and docs tell the truth: their commands are run, their tables are what the schema and the catalogue say."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.processes import PATIENCE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path) -> list[tuple[str, str]]:
    return [(t.info, t.content) for t in MarkdownIt().parse(document.read_text()) if t.type == "fence" and t.info]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: d.name)
def test_code_blocks_run(document, tmp_path, mnist_dir):
    """The blocks of a document, one after another in one empty folder, as a reader would type them."""
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "NC_SWEEPS_DATA": str(mnist_dir.absolute()),
    }
    for language, code in blocks(document):
        if language == "make":
            # The suite itself runs under `make test`; here it is enough that make knows what to do.
            command, folder = ["make", "--dry-run", *re.findall(r"^make (\S+)", code, re.MULTILINE)], ROOT
        elif language == "bash":
            command, folder = ["bash", "-euo", "pipefail", "-c", code], tmp_path
        elif language == "python":
            command, folder = [sys.executable, "-c", code], tmp_path
        else:
            assert language in {"text", "yaml"}, f"{document.name}: a block of unknown language {language!r}"
            continue
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"{document.name}:\n{code}\n{done.stdout}\n{done.stderr}"


def test_readme_has_commands_and_only_links_to_what_is_there():
    languages = [language for language, _ in blocks(ROOT / "README.md")]
    assert "make" in languages
    assert languages.count("bash") >= 3
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("name", ["configuration", "metrics"])
def test_references_are_up_to_date(name):
    reference = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    written = (ROOT / "docs" / f"{name}.md").read_text()
    assert written == reference[f"describe_{name}"](), "run `make docs`"
