# SPDX-License-Identifier: Apache-2.0
import json
import pickle

from pc3dcli.stream import spool
from pc3dcli.stream.spool import RecordSpool

RECORDS = [{"type": "mask2d", "track": n, "text": "é\u2028"} for n in range(50)]


def filled() -> RecordSpool:
    records = RecordSpool()
    for record in RECORDS:
        records.append(json.dumps(record, ensure_ascii=False))
    return records


def test_can_be_read_again_and_sent():
    records = filled()
    assert list(records) == list(records) == RECORDS
    assert list(pickle.loads(pickle.dumps(records))) == RECORDS


def test_goes_to_disk(monkeypatch):
    monkeypatch.setattr(spool, "SPOOL_BYTES", 100)
    assert list(filled()) == RECORDS


def test_a_reader_that_stops_early_does_no_harm():
    records = filled()
    assert next(iter(records)) == RECORDS[0]
    records.append('{"last":1}')
    assert list(records) == [*RECORDS, {"last": 1}]
