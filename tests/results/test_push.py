"""A run's folder as a data set of the hub: what a stand-in of its client is asked to do, and what is refused before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.results.push import push
from lcbench.results.records import RECORDS
from tests.helpers import cli
from tests.recorded import record, write

KEY = "hf_very_secret"


class Hub:
    """The part of `huggingface_hub.HfApi` that is used."""

    def __init__(self, *, card: bool = False, refusal: str = "") -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._card, self._refusal = card, refusal

    def create_repo(self, repo_id: str, **how: Any) -> None:
        if self._refusal:
            raise RuntimeError(self._refusal)
        self.calls.append(("create", {"repo_id": repo_id, **how}))

    def file_exists(self, repo_id: str, file: str, *, repo_type: str) -> bool:
        return self._card

    def upload_file(self, **how: Any) -> None:
        self.calls.append(("file", how))

    def upload_folder(self, **how: Any) -> Any:
        self.calls.append(("folder", how))
        return SimpleNamespace(commit_url=f"https://hub/{how['repo_id']}/commit/1")


@pytest.fixture(autouse=True)
def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", KEY)
    write(Path("run"), *(record(n, id=f"passkey/vanilla/256/uniform/{n}") for n in range(2)))


def test_a_private_data_set_with_a_card() -> None:
    hub = Hub()
    assert push(Path("run"), "me/needle-runs", api=hub) == "https://hub/me/needle-runs/commit/1"
    (_, made), (_, card), (_, sent) = hub.calls
    assert made == {"repo_id": "me/needle-runs", "repo_type": "dataset", "private": True, "exist_ok": True}
    text = card["path_or_fileobj"].decode()
    assert card["path_in_repo"] == "README.md" and "`passkey`" in text and "2 samples" in text and "lcbench" in text
    assert (sent["repo_id"], sent["repo_type"], sent["folder_path"]) == ("me/needle-runs", "dataset", "run")
    assert ".lock" in sent["ignore_patterns"] and RECORDS not in sent["ignore_patterns"]
    assert KEY not in str(hub.calls)


def test_a_public_one_and_a_card_that_is_there() -> None:
    hub = Hub(card=True)
    push(Path("run"), "me/x", public=True, api=hub)
    assert [name for name, _ in hub.calls] == ["create", "folder"] and hub.calls[0][1]["private"] is False


def test_a_run_with_gaps_is_refused_unless_asked_for() -> None:
    write(Path("bad"), record(0, id="passkey/vanilla/256/uniform/0"), record(1, "out of memory"))
    with pytest.raises(UserError, match=r"1 that failed.*--incomplete"):
        push(Path("bad"), "me/x", api=Hub())
    with (Path("run") / RECORDS).open("a") as file:
        file.write('{"id": "half')
    with pytest.raises(UserError, match="1 that is half written"):
        push(Path("run"), "me/x", api=Hub())
    assert push(Path("run"), "me/x", incomplete=True, api=Hub()) and push(
        Path("bad"), "me/x", incomplete=True, api=Hub()
    )
    with (Path("run") / RECORDS).open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"line 3, is not a record|line 3"):  # damaged: whatever was asked for
        push(Path("run"), "me/x", incomplete=True, api=Hub())


def test_what_is_refused_before_and_by_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "a/b/c", "../b", "a/", ""):
        with pytest.raises(UserError, match="must be OWNER/NAME"):
            push(Path("run"), name, api=Hub())
    with pytest.raises(UserError) as refused:
        push(Path("run"), "me/x", api=Hub(refusal=f"401 for {KEY}"))
    assert "cannot push run to me/x: 401 for ..." in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    told = cli("push", "run", "--to", "me/x")
    assert told.code == 2 and "set HF_TOKEN" in told.error
    assert cli("push", "nowhere", "--to", "me/x").code == 2


def test_the_real_client_has_what_is_asked_of_it() -> None:
    import inspect

    from huggingface_hub import HfApi

    wanted = {
        "create_repo": ("repo_type", "private", "exist_ok"),
        "file_exists": ("repo_type",),
        "upload_file": ("path_or_fileobj", "path_in_repo", "repo_id", "repo_type"),
        "upload_folder": ("repo_id", "repo_type", "folder_path", "ignore_patterns", "commit_message"),
    }
    for name, options in wanted.items():
        assert set(options) <= inspect.signature(getattr(HfApi, name)).parameters.keys(), name
