"""The documentation builds without a warning, has every public name, and its examples are true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import merpo
import merpo.data
import merpo.guarantee
import merpo.rivals
import merpo.tasks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILD = """
import sys
from sphinx.cmd.build import build_main
docs, out = sys.argv[1:]
for builder in ("html", "doctest"):
    status = build_main(["-q", "-W", "--keep-going", "-b", builder, "-d", f"{out}/trees", docs, f"{out}/{builder}"])
    if status:
        sys.exit(f"the {builder} builder failed")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site's folder; warnings are errors, and so is an example that gives something else."""
    out = tmp_path_factory.mktemp("site")
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(DOCS), str(out)], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return out


def test_every_page_is_there(site):
    pages = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    assert {Path("tutorial"), Path("how-to"), Path("tuning"), Path("compare"), Path("api/merpo")} <= pages
    assert not [page for page in pages if not (site / "html" / page.with_suffix(".html")).exists()]
    index = (site / "html" / "index.html").read_text()
    assert not [
        page for page in pages if page.name != "index" and f'href="{page}.html"' not in index and page.parts[0] != "api"
    ]


@pytest.mark.parametrize(
    "room", [merpo, merpo.rivals, merpo.data, merpo.guarantee, merpo.tasks], ids=lambda m: m.__name__
)
def test_every_public_name_is_in_the_reference(site, room):
    text = "".join(path.read_text() for path in (site / "html" / "api").glob("*.html"))
    found = set(re.findall(r'id="(?:module-)?(merpo[\w.]*)"', text))
    shared = found & {f"merpo.{name}" for name in merpo.__all__}
    assert not [n for n in room.__all__ if f"{room.__name__}.{n}" not in found and f"merpo.{n}" not in shared]


def test_the_examples_of_the_reference_were_run(site):
    text = (site / "doctest" / "output.txt").read_text()
    (run,) = re.findall(r"^ +(\d+) tests$", text, re.MULTILINE)
    assert int(run) >= 30
    assert re.search(r"^ +0 failures in tests$", text, re.MULTILINE)


def test_nothing_of_the_site_needs_a_network(site):
    text = "".join(path.read_text() for path in (site / "html").rglob("*.html"))
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//[^"]+', text)


def test_links_out_of_the_docs_are_named_and_not_broken(site):
    text = (site / "html" / "families" / "README.html").read_text()
    assert "results/behaviour" in text
    assert "../../results" not in text
