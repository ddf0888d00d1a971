import json
import re
from pathlib import Path

import pytest

from fpc_deploy.cli import main
from runtime.bundle import Bundle
from tests.runtime.test_indexing import pictures


class Shell:
    """Runs `fpc-deploy index ...` as the command line does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Return what was printed: standard output, or the error."""
        self._monkeypatch.setattr("sys.argv", ["fpc-deploy", "index", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, printed.err
        return printed.err if code and printed.err.startswith("error:") else printed.out


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def test_life_of_a_gallery(shell: Shell, tiny_bundle: Bundle, tmp_path: Path) -> None:
    source, gallery = pictures(tmp_path / "s", 9), tmp_path / "g"
    (source / "0001_c1s1_999999_00.png").write_bytes(b"no image")
    bundle = ["--bundle", tiny_bundle.folder]
    assert "added 9 entries, 1 image could not be read" in shell("build", source, *bundle, "--out", gallery)
    assert "9 images were in it already" in shell("add", source, *bundle, "--gallery", gallery)
    assert "removed 3 entries, 6 left" in shell("remove", gallery, "--identity", "0001", "--reason", "asked for")
    assert "nothing fits" in shell("remove", gallery, "--identity", "0001")
    assert "removed 1 entry, 5 left" in shell("remove", gallery, "--entry", 1)
    assert "1 segments rewritten" in shell("compact", gallery)
    assert "5 entries checked, clean" in shell("verify", gallery)
    assert "5 entries" in shell("export", gallery, tmp_path / "out.npz")
    assert "added 0 entries, 5 were in it already" in shell("import", gallery, tmp_path / "out.npz")
    shell("build", source, *bundle, "--out", tmp_path / "other", "--ttl-days", 1, "--tokens", "full")
    assert "added 4 entries, 5 were in it already" in shell("merge", gallery, tmp_path / "other")
    facts = json.loads(shell("info", gallery, "--json"))
    assert (facts["entries"], facts["identities"], facts["expiring"]) == (9, 3, 4)
    assert re.search(r"entries +9\n", shell("info", gallery))
    assert "removed 9 entries, 0 left" in shell("remove", gallery, "--before", "2999-01-01")


def test_damage_is_told_with_exit_code_1_and_repaired(shell: Shell, tiny_bundle: Bundle, tmp_path: Path) -> None:
    shell("build", pictures(tmp_path / "s", 4), "--bundle", tiny_bundle.folder, "--out", tmp_path / "g")
    path = tmp_path / "g" / "tokens-000001.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 8
    path.write_bytes(content)
    told = shell("verify", tmp_path / "g", code=1)
    assert "tokens-000001.bin: entry 1: its tokens do not match their checksum\n" in told
    repaired = shell("verify", tmp_path / "g", "--repair")
    assert "entry 1 of 0000 was damaged and is removed: add " in repaired
    assert "3 entries checked, clean" in shell("verify", tmp_path / "g")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["info", "{}/nothing"], "is not a gallery: no such folder"),
        (["info", "{}"], "is not a gallery: it holds no gallery.db"),
        (["remove", "{}/g"], "nothing to remove: name an identity, entries, a camera or a date"),
        (["remove", "{}/g", "--entry", "77"], "entry 77 is not in the gallery"),
        (["import", "{}/g", "{}/none.npz"], "none.npz cannot be read"),
        (["build", "{}/s", "--bundle", "{}/b", "--out", "{}/h"], "is not a bundle"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_exit_code_1(
    shell: Shell, tiny_bundle: Bundle, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    shell("build", pictures(tmp_path / "s", 2), "--bundle", tiny_bundle.folder, "--out", tmp_path / "g")
    error = shell(*(argument.format(tmp_path) for argument in arguments), code=1)
    assert error.startswith("error: ")
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "h").exists()
