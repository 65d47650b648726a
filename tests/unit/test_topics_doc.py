"""docs/specs/topics.md says what `liverank.topics` does."""

from __future__ import annotations

import re
from pathlib import Path

from liverank.settings import Settings
from liverank.topics import MESSAGE_MAX_BYTES, topic_specs

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "specs" / "topics.md"
DAY_MS = 24 * 3600 * 1000


def rows() -> dict[str, list[str]]:
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and re.fullmatch(r"[a-z][a-z-]*(\.G)?", cells[0]) and cells[0] != "topic":
            found[cells[0]] = cells
    return found


def test_the_table_is_the_code() -> None:
    settings = Settings(namespace="live")
    specs = topic_specs(settings, 7)
    documented = rows()
    assert {f"liverank.live.{name.replace('.G', '.7')}" for name in documented} == set(specs)
    for name, (_topic, _key, partitions, policy, retention, timestamps, *_) in documented.items():
        n_partitions, specified = specs[f"liverank.live.{name.replace('.G', '.7')}"]
        assert n_partitions == (settings.stack.partitions if partitions == "P" else int(partitions))
        assert specified["cleanup.policy"] == policy.partition(",")[0]
        assert specified.get("retention.ms", "") == (str(int(retention.split()[0]) * DAY_MS) if retention else "")
        assert specified["message.timestamp.type"] == {"append": "LogAppendTime"}[timestamps]
        assert specified["max.message.bytes"] == str(MESSAGE_MAX_BYTES)


def test_a_replay_keeps_everything_in_the_time_of_its_data() -> None:
    for name, (_, specified) in topic_specs(Settings(clock="data"), 1).items():
        assert specified["message.timestamp.type"] == "CreateTime", name
        assert specified.get("retention.ms", "-1") == "-1", name
