"""The Dockerfile: linted, in agreement with setup.py and the lock, and its install steps executed on request."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pipelines import template_metadata
from tests.conftest import ROOT, encoded, photo, tar_bytes


class Instruction(NamedTuple):
    name: str
    value: str
    stage: str


def instructions(text):
    """The instructions of a Dockerfile, in order, with the name of their stage."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found, stage = [], ""
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, value = line.split(maxsplit=1)
        if name == "FROM":
            stage = value.split(" AS ")[1]
        found.append(Instruction(name, value, stage))
    return found


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
LOCK = {
    name: Version(version)
    for name, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
}
PYTHON = "3.11"
TEMPLATES = [name.removesuffix(".json") for name in template_metadata.templates()]


def of(name, stage=None):
    return [each.value for each in DOCKERFILE if each.name == name and stage in (None, each.stage)]


def setup_value(name):
    """A value that setup.py hands to setuptools."""
    import setuptools

    handed = {}
    setup, setuptools.setup = setuptools.setup, lambda **values: handed.update(values)
    try:
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    finally:
        setuptools.setup = setup
    return handed[name]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_linter_has_nothing_to_say_and_would_say_it(tmp_path):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "hadolint is missing: install the dev extra"
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /x && pip install numpy\n")
    bad = subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True, text=True, check=False)
    assert {"DL3006", "DL3003", "DL3013"} <= set(re.findall(r"DL\d+", bad.stdout))


def test_what_is_copied_exists_and_is_not_ignored():
    copied = set()
    for each in DOCKERFILE:
        if each.name == "COPY" and not each.value.startswith("--from="):
            copied |= set(each.value.split()[:-1])
    assert copied == {"docker/build.lock", "requirements.lock", "setup.py", "pyproject.toml", "README.md", "beam_curate",
                      "pipelines"}  # fmt: skip
    for source in copied:
        assert (ROOT / source).exists(), source
        kept = [line[1:] for line in IGNORED if line.startswith("!")]
        assert any(source == line or source.startswith(f"{line}/") for line in kept), f"{source} is ignored"
    assert IGNORED[1] == "*"
    assert not any(
        fnmatch.fnmatch("pipelines/curate.py", line) for line in IGNORED if not line.startswith(("*", "!", "#"))
    )


def test_stages_that_are_copied_from_come_before():
    known = []
    for each in DOCKERFILE:
        if each.name == "FROM":
            known.append(each.stage)
        if each.name == "COPY" and each.value.startswith("--from="):
            assert each.value.split()[0].removeprefix("--from=") in known[:-1]
    assert known[-1] == "dataflow"  # what `docker build` makes without --target


def test_images_are_pinned_and_of_one_python():
    bases = [value.split(" AS ")[0] for value in of("FROM")]
    external = [base for base in bases if ":" in base]
    assert all(base in {each.stage for each in DOCKERFILE} for base in bases if base not in external)
    assert not [base for base in external if base.endswith(":latest")]
    minors = {re.search(r"python:?(3\.?\d+)", base).group(1).replace("3.", "3") for base in external}
    assert minors == {PYTHON.replace(".", "")}
    assert Version(f"{PYTHON}.0") in SpecifierSet(setup_value("python_requires"))
    lock = re.search(r"^LOCK := .*", (ROOT / "Makefile").read_text(), re.MULTILINE).group()
    assert f"--python-version {PYTHON} " in lock


def test_beam_is_one_version_everywhere():
    (image,) = [value for value in of("FROM") if value.startswith("apache/beam")]
    version = Version(image.split(":")[1].split()[0])
    assert version == LOCK["apache-beam"]
    (requirement,) = [req for req in map(Requirement, setup_value("install_requires")) if req.name == "apache-beam"]
    assert version in requirement.specifier
    assert f'org.apache.beam.version="{version}"' in of("LABEL", "dataflow")[0]


EXTRAS = ("dali-cuda12", "s3")
"""What the image can do beside the package: the templates offer --decoder dali and take s3:// paths."""


def test_the_lock_is_one_of_this_package():
    extras = setup_value("extras_require")
    wanted = [*setup_value("install_requires"), *(each for extra in EXTRAS for each in extras[extra])]
    lock = re.search(r"^\t\$\(LOCK\) setup\.py (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    assert tuple(re.findall(r"--extra (\S+)", lock)) == EXTRAS
    assert "boto3" in LOCK  # of apache-beam[aws]
    for requirement in map(Requirement, wanted):
        name = canonical(requirement.name)
        assert name in LOCK, f"{name} is not in requirements.lock; run make lock"
        assert LOCK[name] in requirement.specifier, f"{name} {LOCK[name]} is not {requirement.specifier}; run make lock"


def test_the_lock_is_whole_and_hashed():
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    packages = [block for block in blocks if not block.startswith("#")]
    assert len(packages) == len(LOCK) > 100
    assert all("--hash=sha256:" in block for block in packages)


def test_the_lock_has_one_cuda_and_it_runs_on_the_drivers_of_dataflow():
    constraint = re.search(r"^torch(.*)$", (ROOT / "docker" / "constraints.txt").read_text(), re.MULTILINE).group(1)
    assert LOCK["torch"] in SpecifierSet(constraint)
    runtimes = [name for name in LOCK if name.startswith("nvidia-cuda-runtime")]
    assert runtimes == ["nvidia-cuda-runtime-cu12"]
    assert LOCK["nvidia-cuda-runtime-cu12"].major == 12
    assert [name for name in LOCK if "dali" in name] == ["nvidia-dali-cuda120"]


def test_what_is_in_a_lock_is_installed_as_it_stands_there():
    """Of `google-auth[pyopenssl]`, which a package asks for, pip takes the newest release, and refuses it: it has no hash."""
    installs = [part for value in of("RUN", "packages") for part in value.split("&&") if ".lock" in part]
    makefile = (ROOT / "Makefile").read_text()
    installs += re.findall(r"^\t.*-r dev\.lock$", makefile, re.MULTILINE)
    assert len(installs) == 3
    for install in installs:
        assert {"--no-deps", "--require-hashes"} <= set(install.split()), install


def test_the_build_imports_what_only_some_jobs_need():
    checked = of("RUN", "runtime")[0]
    assert {"nvidia.dali", "apache_beam.io.aws.clients.s3.boto3_client"} <= set(re.findall(r"[\w.]+", checked))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_launcher_finds_the_script_of_each_template(template):
    assert of("ARG", "dataflow") == ["TEMPLATE=curate"]
    environment = " ".join(of("ENV", "dataflow")).replace("${TEMPLATE}", template)
    script = re.search(r"FLEX_TEMPLATE_PYTHON_PY_FILE=(\S+)", environment).group(1)
    workdir = of("WORKDIR", "dataflow")[-1]
    assert script == f"{workdir}/pipelines/{template}.py"
    assert "pipelines pipelines" in of("COPY", "dataflow")
    assert (ROOT / "pipelines" / f"{template}.py").exists()
    assert not re.search(r"FLEX_TEMPLATE_PYTHON_(SETUP|REQUIREMENTS)_FILE", environment)
    assert of("ENTRYPOINT", "dataflow") == of("ENTRYPOINT", "portable") == ['["/opt/apache/beam/boot"]']


def test_no_script_lies_where_the_workers_look_for_modules():
    """Beam's boot starts a worker by `python -m` in the working directory, where select.py would hide the standard one."""
    targets = [value.split()[-1] for value in of("COPY", "dataflow") if not value.startswith("--from=")]
    assert targets == ["pipelines"]


def test_models_are_fetched_by_options_that_exist():
    from beam_curate.commands import fetch_models

    command = re.search(r"beam-curate fetch-models (.*?);", " ".join(of("RUN", "models"))).group(1)
    words = shlex.split(command.replace("${CLIP_MODEL}", "ViT-B-32").replace("${PRETRAINED}", "openai"))
    options = fetch_models.parse(words)
    assert (str(options.model_dir), options.clip_model, options.pretrained) == ("/models", "ViT-B-32", "openai")
    assert {value.split("=")[0] for value in of("ARG", "models")} == {"CLIP_MODEL", "PRETRAINED"}


def test_only_the_worker_pool_drops_root():
    assert of("USER", "portable") == ["1000"]
    assert of("USER") == ["1000"]


@pytest.mark.skipif(os.environ.get("TEST_IMAGE") != "1", reason="downloads 4 GB and unpacks 10: run by make test-image")
def test_the_install_steps_work_and_the_command_runs_in_what_they_make(tmp_path):
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        pytest.skip(f"the image has Python {PYTHON}")
    context, packages, python = tmp_path / "build", tmp_path / "packages", tmp_path / "python"
    context.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
    site = packages / "lib" / f"python{PYTHON}" / "site-packages"
    environment = {"PATH": f"{python / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(command, **more):
        command = command.replace("/packages", str(packages))
        done = subprocess.run(
            ["sh", "-c", command], cwd=context, env=environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    for each in (each for each in DOCKERFILE if each.stage == "packages"):
        if each.name == "COPY":
            *sources, target = each.value.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, context / target)
                else:
                    shutil.copy(ROOT / source, context / target)
        elif each.name == "RUN":
            run(each.value)
    # The next stage copies the packages over its Python's; here they come by PYTHONPATH, with no source tree in sight.
    context = tmp_path / "template"
    context.mkdir()
    shutil.copytree(ROOT / "pipelines", context / "pipelines")
    run(of("RUN", "runtime")[0], PYTHONPATH=str(site))
    members = [(f"{n}.jpg", encoded(photo(n))) for n in range(3)]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    for decoder in ("fast", "dali --dali_device=cpu"):
        out = run(
            f"python pipelines/curate.py --input={tmp_path}/in.tar --output={tmp_path}/{decoder[:4]} --clip_model=ViT-S-32-alt "
            "--pretrained=random --aesthetic_head=random --nsfw_head=random --min_aesthetic=none --max_nsfw=none "
            f"--decoder={decoder}",
            PYTHONPATH=str(site),
        )
        assert re.search(r"^kept +3 ", out, re.MULTILINE), out
        versions = (tmp_path / decoder[:4] / "summary.json").read_text()
        assert f'"torch": "{LOCK["torch"]}' in versions
