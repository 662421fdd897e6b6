"""Digests of code: an edit of what a script imports changes them, and nothing else does."""

import ast
import os
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from reword import reword_all, text_nodes
from sparseft.study.digests import AXES, WORDS, code_digest, imported_modules, read_code, used_values

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("lib/sparseft/**/*.py"), *ROOT.glob("workflow/scripts/*.py")])
BACKENDS = ["torch", "cerebras/trainer", "modelzoo/training"]
SCRIPTS = sorted(path.name for path in (ROOT / "workflow/scripts").glob("*.py"))


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the scripts and the library that a test may edit."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    return tmp_path


def digests(project: Path) -> dict[str, str]:
    return {name: code_digest(project / "workflow/scripts" / name, project / "lib") for name in SCRIPTS}


def state_digests(project: Path) -> dict[str, str]:
    """Return the code's part of the identity of a saved training state, by backend."""
    lib = project / "lib"
    return {name: code_digest(lib / f"sparseft/backends/{name}.py", lib) for name in BACKENDS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_module_that_python_loads_for_a_script_is_found(name):
    script = ROOT / "workflow/scripts" / name
    code, said = forks.call(list_modules, script)
    assert code == 0, said
    loaded = {Path(line) for line in said.splitlines()}
    assert len(loaded) >= 2
    assert loaded <= set(imported_modules(script, ROOT / "lib"))


def list_modules(script: Path) -> None:
    """Import a script, and print the files of the library that Python loads for it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "sparseft"]:
        del sys.modules[name]
    runpy.run_path(str(script), run_name="imported")
    files = {module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "sparseft"}
    print(*files, sep="\n")


def test_there_is_a_script_for_every_stage():
    assert len(SCRIPTS) >= 8


def test_touching_changes_no_digest(project):
    before = digests(project)
    for file in project.rglob("*.py"):
        os.utime(file, (2e9, 2e9))
    assert digests(project) == before == digests(ROOT)


@pytest.mark.long
def test_rewording_all_that_only_a_reader_sees_changes_no_digest_and_discards_no_saved_state(project):
    before, states = digests(project), state_digests(project)
    counts = reword_all(project)
    assert counts["comment"] > 100
    assert counts["docstring"] > 500
    assert counts["add_argument help"] > 60
    assert counts["Field description"] > 40
    assert counts["measurement"] > 80
    assert digests(project) == before
    assert state_digests(project) == states


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training/progress.py", "BURN_IN = 3", "BURN_IN = 4"),  # a constant
        ("training/progress.py", "process: int = 0", "process: int = 1"),  # a default
        ("training/progress.py", 'point["learning_rate"] > 0', 'point["learning_rate"] >= 0'),  # an operator
        ("training/progress.py", '"seed {seed}, step', '"seed: {seed}, step'),  # a string that decides a result
        ("training/progress.py", '"lower {key}"', '"decrease {key}"'),  # an error message
        ("training/job.py", 'type=int, default=1, help="CPU', 'type=int, default=2, help="CPU'),
        ("training/job.py", 'type=int, default=1, help="CPU', 'type=str, default=1, help="CPU'),
        ("study/config.py", "lora_r: int = Field(8, gt=0", "lora_r: int = Field(9, gt=0"),
        ("study/config.py", "lora_r: int = Field(8, gt=0", "lora_r: int = Field(8, ge=0"),
    ],
)
def test_an_edit_of_code_changes_the_digests_of_exactly_the_scripts_that_import_it(project, file, old, new):
    module, lib, scripts = project / "lib/sparseft" / file, project / "lib", project / "workflow/scripts"
    importers = {name for name in SCRIPTS if module in imported_modules(scripts / name, lib)}
    before, states = digests(project), state_digests(project)
    source = module.read_text()
    assert source.count(old) == 1
    module.write_text(source.replace(old, new))
    assert {name for name, digest in digests(project).items() if digest != before[name]} == importers
    assert {"train.py"} <= importers < set(SCRIPTS)
    assert not states.items() & state_digests(project).items()


def value_digests(project: Path, script: str) -> dict[str, str]:
    """Return the digest of a script for jobs with different tasks and methods."""
    jobs = {
        "nothing": used_values(),
        "boolq": used_values(task="boolq"),
        "boolq_mini wanda": used_values(task="boolq_mini", method="unstructured_wanda"),
        "gsm8k taylor": used_values(task="gsm8k", method="structured_taylor"),
        "owl": used_values(method="unstructured_owl_on_c4"),
    }
    path = project / "workflow/scripts" / script
    return {name: code_digest(path, project / "lib", values=values) for name, values in jobs.items()}


def append(path: Path, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("importances/wanda.py", {"boolq_mini wanda", "owl"}),  # OWL divides the weights by wanda's scores.
        ("importances/taylor.py", {"gsm8k taylor"}),
        ("importances/gradient.py", {"gsm8k taylor"}),  # Both have one statistic.
        ("patterns/structured.py", {"gsm8k taylor"}),
        ("patterns/unstructured.py", {"boolq_mini wanda", "owl"}),
        ("tasks/gsm8k.py", {"gsm8k taylor"}),
        ("tasks/boolq.py", {"boolq", "boolq_mini wanda"}),  # The mini task has the prompt of the real one.
        ("importances/importance.py", {"nothing", "boolq", "boolq_mini wanda", "gsm8k taylor", "owl"}),
    ],
)
def test_a_value_s_file_counts_only_for_the_jobs_that_use_the_value(project, file, changed):
    before = value_digests(project, "compute_masks.py")
    append(project / "lib/sparseft" / file, "ADDED = 1")
    after = value_digests(project, "compute_masks.py")
    assert {name for name in before if after[name] != before[name]} == changed


@pytest.mark.long
@pytest.mark.parametrize("folder", AXES)
def test_a_new_value_changes_the_digest_of_no_job(project, folder):
    before = {script: value_digests(project, script) for script in SCRIPTS}
    package = project / "lib/sparseft" / folder
    (package / "new_value.py").write_text("NEW = 1\n")
    append(package / "__init__.py", f"from sparseft.{folder.replace('/', '.')}.new_value import NEW  # noqa")
    # The digests know the names of the values that are in this project's tables.
    with_new = {**AXES, folder: AXES[folder] | {"new_value"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparseft.study.digests.AXES", with_new)
        assert {script: value_digests(project, script) for script in SCRIPTS} == before


def test_every_value_has_a_file_of_its_name():
    for folder, names in AXES.items():
        assert names
        for name in names:
            assert (ROOT / "lib/sparseft" / folder / f"{name}.py").is_file()


def canonical(source: str) -> bytes:
    return read_code(source.encode()).canonical


def mutate(node: ast.Constant | ast.BinOp | ast.Name) -> tuple[str, object]:
    """Change one node of a tree; returns the attribute that changed and what it was."""
    if isinstance(node, ast.Name):
        attribute, new = "id", node.id + "_"
    elif isinstance(node, ast.Constant):
        attribute, new = "value", f"not {node.value!r}"
    else:
        attribute, new = "op", ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
    old = getattr(node, attribute)
    setattr(node, attribute, new)
    return attribute, old


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.stem)
def test_the_layout_of_a_source_is_no_code_and_each_name_operator_and_constant_is(file):
    source = file.read_text()
    tree, before = ast.parse(source), canonical(source)
    assert canonical(ast.unparse(tree)) == before
    texts = {part for text, _ in text_nodes(tree) for part in ast.walk(text)}
    examples = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "examples"]
    texts |= {part for keyword in examples for part in ast.walk(keyword)}
    for kind in (ast.Constant, ast.BinOp, ast.Name):
        nodes = [node for node in ast.walk(tree) if isinstance(node, kind) and node not in texts]
        nodes = [node for node in nodes if getattr(node, "id", "") != "__doc__"]  # the description of a parser
        for node in random.Random(0).sample(nodes, min(3, len(nodes))):
            attribute, old = mutate(node)
            assert canonical(ast.unparse(tree)) != before
            setattr(node, attribute, old)
    assert canonical(ast.unparse(tree)) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f(1)", "f(True)"),
        ("f(1)", "f(1.0)"),
        ("f('1')", "f(b'1')"),
        ("f(None)", "f()"),
        ("f([])", "f()"),
        ("f(a=1, b=2)", "f(b=2, a=1)"),
        ("f(a, *b)", "f(*a, b)"),
        ("{**a, b: c}", "{a: b, **c}"),
        ("a[1:]", "a[:1]"),
        ("f'{a}{b!r}'", "f'{a!r}{b}'"),
        ("f'{a:1}'", "f'{a}1'"),
        ("lambda *, a, b=1: a", "lambda *, a=1, b: a"),
        ("from . import a", "from .. import a"),
        ("x = '''a'''", "'''a'''"),
        ("f(help='a')", "f(help='b')"),  # not a function of argparse
        ("p.add_argument('--a', default='a')", "p.add_argument('--a', default='b')"),
        ("p.add_argument('--a', help=f(1))", "p.add_argument('--a', help=f(2))"),
        ("p.add_argument('--a', help=f'{f(1)}')", "p.add_argument('--a', help=f'{f(2)}')"),
        ("p.add_argument('--a', **{'help': 'a'})", "p.add_argument('--a', **{'help': 'b'})"),
        ("Field(1, description='a')", "Field(2, description='a')"),
        ("Field('a', description='a')", "Field('b', description='a')"),
        ("Field(pattern='a', title='a')", "Field(pattern='b', title='a')"),
        ("axis.set(title='a')", "axis.set(title='b')"),
        ("setting('a', link='a')", "setting('a', link='b')"),
    ],
)
def test_two_sources_that_may_compute_something_else_are_told_apart(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f():\n    '''Say it.'''", "def f(): pass"),
        ("class A(B):\n    x = 1\n    'What x is.'", "class A(B):\n    x = 1"),
        ("'''Say it.'''\nimport a", "# Say it.\nimport a"),
        ("x = 'it' 'self'", 'x = (\n    "itself"\n)'),
        ("f'a{b}' 'c' ''", "f'a{b}c'"),
        ("p.add_argument('--a', help=f'{A} or {B:>3}', metavar=('B', 'C'))", "p.add_argument('--a')"),
        ("Field(1, description='a', title='b', examples=[1, 'c'])", "Field(1)"),
        ("setting('a', 'b', default=None)", "setting(default=None)"),
    ],
)
def test_what_only_a_reader_sees_may_be_left_out(one, other):
    assert canonical(one) == canonical(other)


def test_the_canonical_form_is_the_same_in_every_version_of_python():
    """Python 3.12 gave functions and classes type_params, 3.12.1 puts an empty constant into some f-strings."""
    source = "def f(a, *, b=None):\n    return f'{a!r:>3}' 'b' f''\n"
    assert canonical(source) == (
        b"Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='a',),],kwonlyargs=[arg(arg='b',),],"
        b"kw_defaults=[Constant(None),],),body=[Return(value=JoinedStr(values=[FormattedValue(value=Name(id='a',),"
        b"conversion=114,format_spec=JoinedStr(values=[Constant('>3'),],),),Constant('b'),],),),],),],)"
    )


@pytest.mark.long
def test_no_result_depends_on_a_docstring_or_on_a_description():
    uses = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", "")))
            if name in {"__doc__", "getdoc", "description", *WORDS} and not isinstance(node, ast.alias):
                uses.append((type(node).__name__, name, file.name))
    descriptions = [use for use in uses if use[1] not in {"__doc__", *WORDS}]
    attributes = {use for use in descriptions if use[0] == "Attribute"}
    # In the help of add_flags, where a key of the configuration becomes a field of a record, and in the words of a table.
    files = ("config.py", "manifests.py", "record_file.py", "tables.py")
    assert attributes == {("Attribute", "description", file) for file in files}
    assert not [use for use in uses if use[0] in ("FunctionDef", "ClassDef")]
    documents = [file for kind, name, file in uses if name == "__doc__"]
    sources = "".join(file.read_text() for file in SOURCES)
    assert len(documents) == sources.count("argparse.ArgumentParser(description=__doc__, ") >= 20


PLOTTERS = {"analyze_results.py", "analyze_throughput.py", "compare.py"}
EVALUATIONS = {"evaluate.py", "evaluate_adapter.py", "evaluate_selection.py", "export_study.py"}


@pytest.mark.parametrize(
    ("module", "concerned", "untouched"),
    [
        ("masks/validation.py", {"validate_sparsity.py"}, {"train.py", "merge.py", "compute_masks.py", "evaluate.py"}),
        ("pruning/structured.py", {"compute_masks.py"}, {"train.py", "merge.py", "validate_sparsity.py"}),
        ("training/loop.py", {"train.py"}, {"compute_masks.py", "validate_sparsity.py", "merge.py", "evaluate.py"}),
        ("analysis/figures.py", PLOTTERS, set(SCRIPTS) - PLOTTERS),  # imported inside main
        ("records/evaluation_record.py", PLOTTERS | EVALUATIONS, set(SCRIPTS) - PLOTTERS - EVALUATIONS),
        ("__init__.py", set(SCRIPTS), set()),
        ("errors.py", set(SCRIPTS), set()),
    ],
)
def test_an_edit_changes_the_digests_of_the_scripts_that_import_it_alone(project, module, concerned, untouched):
    before = digests(project)
    with open(project / "lib/sparseft" / module, "a") as file:
        file.write("\nEDITED = 1\n")
    changed = {name for name, digest in digests(project).items() if digest != before[name]}
    assert changed >= concerned
    assert not changed & untouched


def test_what_a_use_of_a_script_never_imports_is_not_in_its_digest(project):
    script, lib, module = project / "workflow/scripts/compute_masks.py", project / "lib", "sparseft.pruning.calibration"
    whole, without = imported_modules(script, lib), imported_modules(script, lib, (module,))
    left_out = {path.relative_to(lib / "sparseft").as_posix() for path in set(whole) - set(without)}
    assert left_out >= {"pruning/calibration.py", "language_model/loss.py", "language_model/model.py"}
    loaded = f"import sys; sys.path.insert(0, {str(lib)!r}); import runpy; runpy.run_path({str(script)!r}); print({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_edit_of_a_script_changes_its_own_digest_alone(project):
    before = digests(project)
    with open(project / "workflow/scripts/train.py", "a") as file:
        file.write("\nEDITED = 1\n")
    assert {name for name, digest in digests(project).items() if digest != before[name]} == {"train.py"}


def test_a_name_that_is_a_module_and_one_that_is_a_function_are_told_apart(tmp_path):
    package = tmp_path / "lib/sparseft/inner"
    package.mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/module.py", "inner/other.py", "lazy.py"):
        (tmp_path / "lib/sparseft" / name).write_text("")
    (package / "module.py").write_text("def function():\n    import sparseft.lazy\n")
    script = tmp_path / "script.py"
    script.write_text("import numpy\nfrom sparseft.inner import function, module\n")
    found = [
        path.relative_to(tmp_path / "lib/sparseft").as_posix() for path in imported_modules(script, tmp_path / "lib")
    ]
    assert found == ["__init__.py", "inner/__init__.py", "inner/module.py", "lazy.py"]
