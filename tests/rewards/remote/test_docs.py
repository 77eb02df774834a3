"""The example server of the remote reward guide works with the client."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.rewards.remote.live import TOKEN, pictures

from stepcredit.errors import InputError
from stepcredit.rewards.remote.client import RemoteOptions, RemoteReward
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.wire import Batch

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "remote-rewards.md"


async def wait_briefly(seconds: float) -> None:
    await asyncio.sleep(0.02)


def test_client_works_with_the_example_server(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "server.py").write_text(code)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen([sys.executable, tmp_path / "server.py", TOKEN, port])
    try:
        servers, options = Servers([f"http://127.0.0.1:{port}"]), RemoteOptions(retries=2000, timeout=10)
        images = pictures(3)
        scores = RemoteReward("brightness", servers, options, TOKEN, wait_briefly)(images, ["a"] * 3, [{}] * 3)
        torch.testing.assert_close(scores, Batch.of(images, [], []).images().mean((1, 2, 3)))
        with pytest.raises(InputError, match="refuses the token"):
            RemoteReward("brightness", servers, options, "other")(images, ["a"] * 3, [{}] * 3)
    finally:
        process.terminate()
        process.wait()


def test_the_guide_states_the_default_options() -> None:
    text = PAGE.read_text()
    for name, value in vars(RemoteOptions()).items():
        expected = "token.txt" if name == "token_file" else str(value).removesuffix(".0")
        assert re.search(rf"^    {name}: {re.escape(expected)} ", text, re.MULTILINE), name
