"""The Python in the README and the docs runs as written, page by page, in an empty folder."""

import inspect
import re
from pathlib import Path

import pytest

from routellm_core import _lazy
from routellm_core.routers import ROUTERS
from routellm_core.testing import RouterContract

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# upstream's own: building a LlamaIndex agent looks at every member of it, pydantic's deprecated ones too
@pytest.mark.filterwarnings("ignore:The `.*` (attribute|method) is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute on the instance:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*is_running.*:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, loopback, tmp_path, monkeypatch):
    for module in ("langchain_openai", "llama_index.llms.openai_like"):
        pytest.importorskip(module)
    from llama_index.core.instrumentation import get_dispatcher

    root = get_dispatcher()  # of the whole process: what a page adds to it must not reach other tests
    monkeypatch.setattr(root, "event_handlers", list(root.event_handlers))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    text = page.read_text(encoding="utf-8")
    fences = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    namespace = {"__name__": page.stem}
    for fence in fences:
        # blank lines in front, so that a failure points at the page's own line
        above = "\n" * text[: fence.start(1)].count("\n")
        exec(compile(above + fence.group(1), str(page), "exec"), namespace)
    contracts = [c for c in namespace.values() if isinstance(c, type) and RouterContract in c.__mro__[1:]]
    assert bool(contracts) == (page.name == "extending.md")
    for contract in contracts:
        router = contract().make()
        monkeypatch.setitem(ROUTERS.table, router.kind, "page:Router")  # as its registration would
        monkeypatch.setattr(_lazy, "load", lambda target, router=router: type(router))
        for name in [n for n in dir(contract) if n.startswith("test_")]:
            test = getattr(contract(), name)
            test(*([tmp_path / name] if "tmp_path" in inspect.signature(test).parameters else []))
    if page.name == "README.md":
        models = {request["model"] for request in loopback.requests}
        assert models == {"gpt-4.1", "gpt-4.1-mini"}, "the README's calls did not reach both backends"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"], ids=lambda page: page.name
)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_make_target_named_in_the_docs_exists():
    targets = set(re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    targets = {name for line in targets for name in line.split()}
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for named in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert named in targets, f"{page.name}: make {named}"
