"""No code that turns data into code: no pickles, no eval, no shell, no YAML but the safe kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepcredit

SOURCE = Path(stepcredit.__file__).parent
PICKLING = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
ALLOWED = {"pickle.UnpicklingError"}
"""What torch raises when `weights_only=True` meets code."""
RUNS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnl", "pty.spawn", "subprocess.getoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("torch.jit.load", "torch.hub.load", "pd.read_pickle", "pandas.read_pickle"),
}
IMPORTERS = {
    "registry.py": "modules of its own package",
    "plugins.py": "what the user names",
    "utils/python_objects.py": "the module of an object that the user passed",
    "rewards/hpsv2.py": "open_clip, by a literal name",
}
"""The files that import modules by a name that is not a literal, and which modules."""


def name_of(node: ast.AST) -> str:
    """`a.b.c` of an expression of names, "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := name_of(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of a keyword argument, or None."""
    value = next((item.value for item in call.keywords if item.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else None


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def faults(text: str) -> Iterator[str]:
    """Calls and imports in a source file that could execute data as code."""
    for node in ast.walk(ast.parse(text)):
        for name in imported(node):
            if name.partition(".")[0] in PICKLING and name not in ALLOWED:
                yield f"imports {name}"
        if isinstance(node, ast.Call):
            yield from call_faults(node)


def call_faults(call: ast.Call) -> Iterator[str]:
    name = name_of(call.func)
    if name in RUNS or name in CALLS:
        yield f"calls {name}"
    if name == "torch.load" and keyword(call, "weights_only") is not True:
        yield "calls torch.load without weights_only=True"
    if keyword(call, "allow_pickle") is True:
        yield f"calls {name} with allow_pickle=True"
    if keyword(call, "shell") is True:
        yield f"calls {name} with shell=True"
    if (
        any(item.arg == "trust_remote_code" for item in call.keywords)
        and keyword(call, "trust_remote_code") is not False
    ):
        yield f"calls {name} with trust_remote_code"
    if keyword(call, "verify") is False:
        yield f"calls {name} with verify=False"


def imports_by_value(text: str) -> bool:
    calls = [name_of(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return any(name.startswith("importlib.") and name != "importlib.util.find_spec" for name in calls)


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_no_source_executes_data() -> None:
    assert len(sources()) > 100
    found = {path.relative_to(SOURCE).as_posix(): list(faults(path.read_text(encoding="utf-8"))) for path in sources()}
    assert {path: faults for path, faults in found.items() if faults} == {}


def test_only_known_files_import_modules_by_name() -> None:
    found = {
        path.relative_to(SOURCE).as_posix() for path in sources() if imports_by_value(path.read_text(encoding="utf-8"))
    }
    assert found == IMPORTERS.keys()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from pickle import *",
        "def late():\n    import joblib",
        "import marshal, json",
        "from torch import load\nimport torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "kind.from_pretrained(path, trust_remote_code=True)",
        "kind.from_pretrained(path, trust_remote_code=flag)",
        "httpx.get(url, verify=False)",
    ],
)
def test_unsafe_lines_are_found(line: str) -> None:
    assert list(faults(line))


@pytest.mark.parametrize(
    "line",
    [
        "from pickle import UnpicklingError",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "model.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "subprocess.run(['git'])",
        "kind.from_pretrained(path, trust_remote_code=False)",
    ],
)
def test_safe_lines_are_not_reported(line: str) -> None:
    assert not list(faults(line))
