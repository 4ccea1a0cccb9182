"""How tests get at real tools, and what decides that one is built again."""

from pathlib import Path

import pytest

from tests import tools
from tests.tools import build


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tools, "BIN", tmp_path / "bin")
    monkeypatch.setattr(tools, "_SYSTEM_DIRECTORIES", str(tmp_path / "sbin"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def executable(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_built_tool_goes_before_an_installed_one(empty_machine: Path) -> None:
    installed = executable(empty_machine / "path" / "consul")
    assert tools.find("consul") == installed
    built = executable(empty_machine / "bin" / "consul")
    assert tools.find("consul") == built


def test_servers_of_debian_are_found_outside_of_path(empty_machine: Path) -> None:
    installed = executable(empty_machine / "sbin" / "haproxy")
    assert tools.find("haproxy") == installed


@pytest.mark.parametrize(("name", "how"), [("consul", "make tools"), ("promtool", "apt-get install prometheus")])
def test_a_missing_tool_says_how_to_get_it(name: str, how: str) -> None:
    with pytest.raises(tools.ToolNotFoundError, match=f"{name} is missing: {how}"):
        tools.find(name)


def test_a_missing_tool_skips_on_a_users_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make tools"):
        tools.require("consul")


def test_a_missing_tool_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make tools"):
        tools.require("consul")


def test_a_fingerprint_follows_what_is_built_from(tmp_path: Path) -> None:
    patterns = ("go.mod", "*.go")
    (tmp_path / "go.mod").write_text("module a\n")
    first = build.fingerprint(tmp_path, patterns)
    (tmp_path / "notes.txt").write_text("not part of the build")
    assert build.fingerprint(tmp_path, patterns) == first
    (tmp_path / "main.go").write_text("package main\n")
    assert build.fingerprint(tmp_path, patterns) != first


def test_every_tool_has_a_pinned_module() -> None:
    for tool in build.GO_TOOLS:
        folder = build.HERE / tool.module
        assert (folder / "go.sum").stat().st_size > 0
        pinned = (folder / "go.mod").read_text()
        assert tool.package == "." or tool.package in pinned


def test_no_registry_is_named() -> None:
    lock = (build.HERE / build.JS_CLIENT / "package-lock.json").read_text()
    assert "registry" not in lock
    assert '"resolved"' not in lock
