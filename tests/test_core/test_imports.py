"""Importing does nothing, and brings nothing that serving does not need."""

import subprocess
import sys
import traceback

import pytest

import routellm_core

HEAVY = (
    "torch",
    "transformers",
    "langchain",
    "langchain_core",
    "llama_index",
    "scipy",
    "sklearn",
    "pandas",
    "pyarrow",
    "matplotlib",
    "ray",
    "redis",
    "fastapi",
    "typer",
    "rich",
    "model2vec",
    "httpx",
    "openai",
)


def loaded_after(code):
    paths = [p for p in sys.path if p]
    script = f"import sys; sys.path[:0] = {paths!r}\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_every_public_name_brings_no_optional_dependency():
    names = [n for n in routellm_core.__all__ if n != "testing"]
    found = loaded_after(
        "import routellm_core, threading\n"
        f"for name in {names!r}: getattr(routellm_core, name)\n"
        "assert threading.active_count() == 1"
    )
    assert not found.intersection(HEAVY)


def test_importing_the_package_alone_does_not_even_bring_numpy():
    assert "numpy" not in loaded_after("import routellm_core")


def test_deciding_with_a_saved_router_brings_only_what_serving_needs(static_folder, tmp_path):
    from routellm_core import MatrixFactorizationRouter
    from routellm_core.encoders import StaticEncoder

    encoder = StaticEncoder(static_folder)
    import numpy as np

    MatrixFactorizationRouter(
        encoder=encoder,
        model_vectors=np.eye(2),
        projection=np.ones((2, encoder.dim)),
        classifier=np.ones(2),
        models=("a", "b"),
        strong="a",
        weak="b",
    ).save(tmp_path / "r")
    found = loaded_after(
        f"from routellm_core import load_router\nload_router({str(tmp_path / 'r')!r}).win_rate(['hi'])"
    )
    assert "model2vec" in found
    assert not found.intersection(set(HEAVY) - {"model2vec", "rich", "httpx"})


@pytest.mark.parametrize("package", ["routellm_core"])
def test_all_is_what_can_be_reached(package):
    module = __import__(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert dir(module) == sorted(module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_a_missing_extra_names_the_install_command(monkeypatch):
    from routellm_core._lazy import need
    from routellm_core.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"pip install 'routellm-integrations\[fit\]'") as caught:
        need("surely_not_installed.sub", extra="fit", why="this test")
    shown = "".join(traceback.format_exception(caught.value))
    assert "ModuleNotFoundError" not in shown  # the message says it all
    assert issubclass(MissingExtraError, ImportError)


def test_every_error_is_in_the_tree_and_is_what_callers_would_catch():
    from routellm_core import errors

    expected = {
        "MissingExtraError": ImportError,
        "UnknownKindError": LookupError,
        "ConfigurationError": ValueError,
        "RouterFormatError": ValueError,
        "DataError": ValueError,
        "CalibrationError": ValueError,
        "ScoringError": RuntimeError,
        "EncoderError": RuntimeError,
        "StateError": RuntimeError,
        "RouteLLMError": Exception,
    }
    assert set(errors.__all__) == set(expected)
    for name, builtin in expected.items():
        error = getattr(errors, name)
        assert issubclass(error, builtin)
        assert issubclass(error, errors.RouteLLMError)
        assert error.__name__ in errors.__doc__
