"""The bytes of the journal: version 1 is pinned, and no damage ever turns into a record that was not written."""

import json
import pickle
import re
import struct

import pytest
from blake3 import blake3
from drawn import any_text, commits, json_values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dagron.checkpoint.format import commits as committed
from dagron.checkpoint.format import journal as fmt
from dagron.checkpoint.format import json_bodies, records
from dagron.checkpoint.format.commits import Commit, decode_commit, encode_commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import (
    FORMAT_VERSION,
    HEADER_SIZE,
    Damage,
    Record,
    RecordWriter,
    decode_header,
    encode_header,
    scan,
)
from dagron.checkpoint.format.json_bodies import decode_event, encode_event
from dagron.checkpoint.format.records import Kind
from dagron.checkpoint.format.storage import Storage
from dagron.figures import Figures
from dagron.frozen import REQUIRED, fields_of

ID = bytes(range(16))
DIGEST = bytes(range(100, 132))
FINGERPRINT = bytes(range(200, 216))
RECORD_SIZE = 40  # from the specification, not from the code

# Two surrogates that stand beside each other, which JSON writers and readers take for one character.
SURROGATE_PAIR = "\ud83d\ude00"


def commit_of(name="a", data=b"", **fields):
    defaults = {
        "storage": Storage.INLINE,
        "slot": 3,
        "attempts": 2,
        "size": len(data),
        "digest": blake3(data).digest(),
        "fingerprint": FINGERPRINT,
        "figures": Figures(1.0, 0.5, 0.25, 0.0, 4096),
    }
    return Commit(name, **{**defaults, **fields})


def commit_in(record):
    return decode_commit(record.body, record.payload_offset, record.sequence)


def json_in(record):
    return json.loads(record.body.decode("utf-8", "surrogatepass"))


def event(writer, kind, said):
    """A record of JSON, whatever it says."""
    return writer.frame(kind, json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def read(journal, key=None, checkpoint_id=ID):
    return list(scan(lambda offset, n: journal[offset : offset + n], len(journal), checkpoint_id, Digests(key)))


def write(*items, key=None, checkpoint_id=ID):
    """A journal of events `(kind, fields)` and commits `(commit, payload)`, and where each record begins and ends."""
    writer = RecordWriter(checkpoint_id, Digests(key))
    journal = encode_header(checkpoint_id, Digests(key))
    spans = []
    for first, second in items:
        begin = len(journal)
        if isinstance(first, Commit):
            journal += writer.frame(Kind.COMMITTED, encode_commit(first), len(second)) + second
        else:
            journal += event(writer, first, second)
        spans.append((begin, len(journal)))
    return journal, spans


SEVERAL = (
    (Kind.RUN_STARTED, {"at": 1.0, "fresh": True, "owns": ["old.pkl"]}),
    (commit_of("a", b"payload of a"), b"payload of a"),
    (commit_of("big", storage=Storage.FILE, size=10**12), b""),
    (Kind.FAILED, {"at": 2.0, "name": "c"}),
    (commit_of("d", b"\xb7DG\xc3" * 20, without=("c",)), b"\xb7DG\xc3" * 20),
    (Kind.RUN_ENDED, {"at": 3.0}),
)


# --- the bytes of version 1 --------------------------------------------------------------------------------------

# The worked example of the format. If a test of these fails, journals that people have would be read wrongly: do not
# change the bytes; add a version.
# fmt: off
GOLDEN_HEADER = bytes.fromhex(
    "646167726f6e1a0a"                  # magic, "dagron\x1a\n"
    "01000000"                          # version 1
    "00000000"                          # flags: not keyed
    "000102030405060708090a0b0c0d0e0f"  # checkpoint id
    "56b37307ef70acdf7a7271b166526bab"  # check
)
GOLDEN_RUN_STARTED = bytes.fromhex(
    "b74447c3" "01000000" "26000000" "00000000" "0100000000000000"  # marker, kind, 38 bytes of body, no payload, no. 1
    "61796ae9a4548179760d586a6e603bfb"                              # check
    "7b226174223a20312e352c20226672657368223a20747275652c20226f776e73223a205b5d7d"
)
GOLDEN_COMMITTED_INLINE = bytes.fromhex(
    "b74447c3" "02000000" "85000000" "05000000" "0200000000000000"  # 133 bytes of body, 5 of payload
    "c26ddcbd683e60276e6ffe12e6cee024"
    "00" "00" "0300" "02000000"         # INLINE, padding, slot 3, 2 attempts
    "0500000000000000"                  # 5 bytes
    "cae054c50efb360d70b15439b6c8fa00df1127236a1247f0198c992062370981"  # digest of the payload
    "00000000000000000000000000000000"  # no digest of the value
    "c8c9cacbcccdcecfd0d1d2d3d4d5d6d7"  # fingerprint
    "0000000000000000"                  # never another result
    "000000000000f03f"                  # started at 1.0
    "000000000000e03f"                  # took 0.5 s
    "000000000000d03f"                  # and 0.25 s of CPU
    "000000000000c03f"                  # of which 0.125 s in the system
    "0010000000000000"                  # peak memory 4096 bytes
    "01000000" "61"                     # a name of 1 byte, "a"
    "80054b2a2e"                        # payload: pickle.dumps(42, 5)
)
GOLDEN_COMMITTED_FILE = bytes.fromhex(
    "b74447c3" "02000000" "c9000000" "00000000" "0300000000000000"
    "f03734638328f6c77d8a482bdbfdab72"
    "01" "00" "ffff" "01000000"         # FILE, padding, slot -1, 1 attempt
    "40420f0000000000"                  # a million bytes
    "6465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283"
    "dcdddedfe0e1e2e3e4e5e6e7e8e9eaeb"  # digest of the value
    "c8c9cacbcccdcecfd0d1d2d3d4d5d6d7"
    "0100000000000000"                  # another one since record 1
    "0000000000000040" "0000000000000840" "0000000000001040" "000000000000f83f" "0000000002000000"
    "04000000" "622fc3a9"               # a name of 4 bytes, "b/é"
    # {"without": ["x", "y"], "file": "B.pkl", "temp": "_dagron-0.tmp"}
    "7b22776974686f7574223a205b2278222c202279225d2c202266696c65223a2022422e706b6c222c20"
    "2274656d70223a20225f646167726f6e2d302e746d70227d"
)
GOLDEN_FAILED = bytes.fromhex(
    "b74447c3" "03000000" "0d000000" "00000000" "0400000000000000"
    "c3cfa7b1f58a44bdc061233f7468c7f6" "7b226e616d65223a202263227d"
)
GOLDEN_INVALIDATED = bytes.fromhex(
    "b74447c3" "04000000" "1f000000" "00000000" "0500000000000000"
    "5415b2ac66e347b6e21ee438efd50cf0" "7b226e616d6573223a205b2261225d2c20226c6f7374223a2066616c73657d"
)
GOLDEN_RUN_ENDED = bytes.fromhex(
    "b74447c3" "05000000" "0b000000" "00000000" "0600000000000000"
    "14e7e14d2fde544f4540101b5eb4b99f" "7b226174223a20392e307d"
)
GOLDEN_CLEARED = bytes.fromhex(
    "b74447c3" "06000000" "13000000" "00000000" "0700000000000000"
    "57858b2ffa06635a0bfae24ed809f79f" "7b226f776e73223a205b22612e706b6c225d7d"
)
GOLDEN = (
    GOLDEN_HEADER + GOLDEN_RUN_STARTED + GOLDEN_COMMITTED_INLINE + GOLDEN_COMMITTED_FILE + GOLDEN_FAILED
    + GOLDEN_INVALIDATED + GOLDEN_RUN_ENDED + GOLDEN_CLEARED
)
GOLDEN_KEYED = bytes.fromhex(  # the key is b"key"
    "646167726f6e1a0a" "01000000" "01000000" "000102030405060708090a0b0c0d0e0f"
    "2f208e33f9d7d24b48a33c4508800c78"
    "b74447c3" "05000000" "0b000000" "00000000" "0100000000000000"
    "8cb9ba751626f1cd4c247d50caf75084" "7b226174223a20392e307d"
)
# fmt: on

DIGEST_42 = blake3(pickle.dumps(42, 5)).digest()
COMMITTED_A = Commit("a", Storage.INLINE, 3, 2, 5, DIGEST_42, FINGERPRINT, Figures(1.0, 0.5, 0.25, 0.125, 4096))
COMMITTED_B = Commit(
    "b/é",
    Storage.FILE,
    -1,
    1,
    10**6,
    DIGEST,
    FINGERPRINT,
    Figures(2.0, 3.0, 4.0, 1.5, 2**33),
    ("x", "y"),
    -1,
    "B.pkl",
    "_dagron-0.tmp",
    1,
    value_digest=bytes(range(220, 236)),
)


class TestGolden:
    def test_it_decodes(self):
        assert decode_header(GOLDEN, Digests()) == (1, False, ID)
        started, a, b, failed, invalidated, ended, cleared = read(GOLDEN)
        assert [r.kind for r in (started, a, b, failed, invalidated, ended, cleared)] == [1, 2, 2, 3, 4, 5, 6]
        assert [r.sequence for r in (started, a, b, failed, invalidated, ended, cleared)] == [1, 2, 3, 4, 5, 6, 7]
        assert json_in(started) == {"at": 1.5, "fresh": True, "owns": []}
        payload_at = len(GOLDEN_HEADER + GOLDEN_RUN_STARTED + GOLDEN_COMMITTED_INLINE) - 5
        assert commit_in(a) == COMMITTED_A._replace(payload_offset=payload_at, sequence=2)
        assert pickle.loads(GOLDEN[a.payload_offset : a.payload_offset + a.payload_size]) == 42
        assert commit_in(b) == COMMITTED_B._replace(sequence=3)
        assert json_in(failed) == {"name": "c"}
        assert json_in(invalidated) == {"names": ["a"], "lost": False}
        assert json_in(ended) == {"at": 9.0}
        assert json_in(cleared) == {"owns": ["a.pkl"]}
        assert cleared.payload_offset == len(GOLDEN)

    def test_it_is_what_is_written(self):
        journal, _ = write(
            (Kind.RUN_STARTED, {"at": 1.5, "fresh": True, "owns": []}),
            (COMMITTED_A, pickle.dumps(42, 5)),
            (COMMITTED_B, b""),
            (Kind.FAILED, {"name": "c"}),
            (Kind.INVALIDATED, {"names": ["a"], "lost": False}),
            (Kind.RUN_ENDED, {"at": 9.0}),
            (Kind.CLEARED, {"owns": ["a.pkl"]}),
        )
        assert journal.hex() == GOLDEN.hex()

    def test_keyed_it_decodes_with_its_key_and_is_what_is_written(self):
        assert decode_header(GOLDEN_KEYED, Digests(b"key")) == (1, True, ID)
        [record] = read(GOLDEN_KEYED, b"key")
        assert json_in(record) == {"at": 9.0}
        assert write((Kind.RUN_ENDED, {"at": 9.0}), key=b"key")[0].hex() == GOLDEN_KEYED.hex()

    @pytest.mark.parametrize(("journal", "key"), [(GOLDEN, b""), (GOLDEN_KEYED, b"key")])
    def test_a_reader_made_from_the_specification_alone_agrees(self, journal, key):
        derived = blake3(key, derive_key_context="dagron checkpoint 2026-11-29 signing key").digest() if key else None

        def check(*parts):
            return blake3(b"".join(parts), key=derived).digest()[:16]

        magic, version, flags, checkpoint_id = struct.unpack("<8sII16s", journal[:32])
        assert (magic, version, flags, checkpoint_id) == (b"dagron\x1a\n", 1, int(bool(key)), ID)
        assert journal[32:48] == check(journal[:32])
        offset, found = 48, []
        while offset < len(journal):
            head, given = journal[offset : offset + 24], journal[offset + 24 : offset + 40]
            marker, kind, zeros, body_size, payload_size, sequence = struct.unpack("<4sB3sIIQ", head)
            body = journal[offset + 40 : offset + 40 + body_size]
            assert (marker, zeros) == (b"\xb7DG\xc3", b"\0\0\0")
            assert given == check(ID, head, body)
            payload_offset = offset + 40 + body_size
            found.append(Record(kind, sequence, offset, body, payload_offset, payload_size))
            offset = payload_offset + payload_size
        assert found == read(journal, key or None)

    @pytest.mark.parametrize("key", [None, b"k", b"key of 32 bytes, which are enough", bytes(range(64))])
    def test_the_digest_of_a_result_is_its_blake3_keyed_with_what_is_derived_from_the_signing_key(self, key):
        derived = blake3(key, derive_key_context="dagron checkpoint 2026-11-29 signing key").digest() if key else None
        assert Digests(key).of(b"result") == blake3(b"result", key=derived).digest()


class TestTable:
    def test_the_table_of_the_fields_of_a_commit_is_that_of_the_code(self):
        rows = re.findall(r"^ +(\d+) +(\d+)  (\w+)", committed.__doc__, re.MULTILINE)
        assert len(rows) == len(committed._LAYOUT)
        offset = 0
        for (at, size, words), (name, code) in zip(rows, committed._LAYOUT.items(), strict=True):
            assert (int(at), int(size), words) == (offset, struct.calcsize("<" + code), name.partition("_")[0]) or (
                (int(at), int(size)) == (offset, struct.calcsize("<" + code)) and words == name
            )
            offset += int(size)
        assert committed._COMMIT.size == offset

    def test_a_layout_passes_over_all_other_fields(self):
        body = encode_commit(COMMITTED_B)
        assert struct.unpack_from("<" + committed.commit_layout("size"), body) == (10**6,)
        assert struct.unpack_from("<" + committed.commit_layout("since", "system_seconds"), body) == (1, 1.5)


texts = st.text(st.characters(exclude_categories=()), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)


def events_of(cls):
    """Events of a class, of every type that its fields have."""
    made = {
        "float": finite,
        "int": counts,
        "str": texts,
        "bool": st.booleans(),
        "tuple[str, ...]": st.lists(texts, max_size=3).map(tuple),
        "tuple[tuple[str, str], ...]": st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
        "tuple[tuple[int, float], ...]": st.lists(st.tuples(counts, finite), max_size=3).map(tuple),
        "Figures": st.builds(Figures, finite, finite, finite, finite, counts),
        "Origin": st.builds(
            records.Origin,
            texts,
            texts,
            texts,
            texts,
            st.lists(texts).map(tuple),
            st.lists(st.tuples(texts, texts)).map(tuple),
        ),
        "Output": st.builds(records.Output, texts, texts, counts, counts),
    }
    return st.builds(cls, **{name: made[kind] for name, (kind, _) in fields_of(cls).items()})


class TestEvents:
    @given(st.one_of(*map(events_of, json_bodies._EVENTS)))
    @settings(deadline=None)
    def test_each_is_read_as_it_was_written_and_says_what_is_not_the_default(self, said):
        body = encode_event(said)
        assert decode_event(said.kind, body) == said
        assert set(json.loads(body.decode("utf-8", "surrogatepass"))) == {
            name for name, (_, default) in fields_of(type(said)).items() if getattr(said, name) != default
        }

    def test_fields_and_kinds_that_are_not_known_are_passed_over(self):
        ended = records.RunEnded(1.0, 2)
        assert decode_event(Kind.RUN_ENDED, b'{"at": 1.0, "succeeded": 2, "later": [1]}') == ended
        assert decode_event(77, b"whatever") is None

    @pytest.mark.parametrize("cls", json_bodies._EVENTS, ids=lambda cls: cls.__name__)
    def test_a_field_that_is_missing_or_of_another_type_is_refused(self, cls):
        right = {"float": 1.0, "str": "x", "bool": True, "tuple[str, ...]": []}
        fields = fields_of(cls)
        required = {name: right.get(kind, []) for name, (kind, default) in fields.items() if default is REQUIRED}
        decode_event(cls.kind, json.dumps(required).encode())
        for name in required:
            with pytest.raises(TypeError):
                decode_event(cls.kind, json.dumps({k: v for k, v in required.items() if k != name}).encode())
        for name, (kind, _) in fields.items():
            for value in (None, {}, [[]], 5 if "str" in kind else "5"):
                with pytest.raises((TypeError, ValueError, LookupError)):
                    decode_event(cls.kind, json.dumps({**required, name: value}).encode())

    def test_every_kind_has_a_class_or_a_body_of_its_own(self):
        assert {cls.kind for cls in json_bodies._EVENTS} == set(Kind) - {Kind.COMMITTED, Kind.DAG_RECORDED}


class TestFlags:
    @pytest.mark.parametrize("key", [None, b"key"])
    def test_there_is_one_that_says_keyed_and_no_other(self, key):
        for flags in (*range(8), 1 << 31):
            head = fmt.MAGIC + struct.pack("<II", 1, flags) + ID
            header = head + Digests(key).check(head)
            if bool(key) is not bool(flags & 1):
                with pytest.raises(ValueError, match="sign"):
                    decode_header(header, Digests(key))
            elif flags & ~1:
                with pytest.raises(ValueError, match="flags that version"):
                    decode_header(header, Digests(key))
            else:
                assert decode_header(header, Digests(key)) == (1, bool(key), ID)


# --- what is written is what is read -----------------------------------------------------------------------------

keys = st.none() | st.binary(min_size=1, max_size=64)


class TestRoundTrip:
    @settings(deadline=None)
    @given(commits, st.binary(max_size=300), keys)
    @example(commit_of("", without=("",)), b"", None)
    @example(commit_of("\0\ud800\udfff" + SURROGATE_PAIR), b"", None)
    @example(commit_of("x" * 100_000), b"", None)
    @example(commit_of("child", without=("\ud83d", "\ude00", "\0")), b"", None)
    def test_a_commit_keeps_every_field(self, commit, payload, key):
        journal, [(_, end)] = write((commit, payload), key=key)
        [record] = read(journal, key)
        place = end - len(payload) if commit.storage == Storage.INLINE else -1
        assert commit_in(record) == commit._replace(payload_offset=place, sequence=record.sequence)
        assert journal[record.payload_offset : record.payload_offset + record.payload_size] == payload

    @settings(deadline=None)
    @given(
        st.sampled_from([kind for kind in Kind if kind != Kind.COMMITTED]), st.dictionaries(any_text, json_values), keys
    )
    def test_an_event_of_every_kind_keeps_its_fields(self, kind, fields, key):
        journal, _ = write((kind, fields), key=key)
        [record] = read(journal, key)
        assert record.kind == kind
        assert json_in(record) == fields

    def test_parents_that_had_failed_keep_their_names_whatever_these_are(self):
        commit = commit_of(without=("😀", SURROGATE_PAIR))
        [record] = read(write((commit, b""))[0])
        assert commit_in(record).without == ("😀", SURROGATE_PAIR)

    @pytest.mark.parametrize("kind", [Kind.FAILED, Kind.INVALIDATED])
    def test_events_tell_nodes_apart_that_differ_in_surrogates_only(self, kind):
        names = ["😀", SURROGATE_PAIR]
        [record] = read(write((kind, {"name": names[1], "names": names}))[0])
        assert json_in(record) == {"name": names[1], "names": names}

    @settings(deadline=None)
    @given(st.lists(st.tuples(commits, st.binary(max_size=50)), max_size=5), keys)
    def test_many_records_are_read_in_order_with_consecutive_numbers(self, items, key):
        journal, spans = write(*items, key=key)
        records = read(journal, key)
        assert [r.sequence for r in records] == list(range(1, len(items) + 1))
        assert [r.offset for r in records] == [begin for begin, _ in spans]
        assert [commit_in(r)._replace(payload_offset=-1, sequence=0) for r in records] == [
            commit for commit, _ in items
        ]

    def test_a_writer_goes_on_with_the_number_that_it_is_given(self):
        writer = RecordWriter(ID, Digests(), sequence=41)
        journal = encode_header(ID, Digests()) + event(writer, Kind.RUN_ENDED, {})
        missing, record = read(journal)
        assert (missing, record.sequence) == (Damage(HEADER_SIZE, 0), 42)

    @settings(deadline=None)
    @given(st.binary(min_size=16, max_size=16), keys)
    def test_a_header_keeps_the_checkpoint_id(self, checkpoint_id, key):
        header = encode_header(checkpoint_id, Digests(key))
        assert len(header) == HEADER_SIZE == 48
        assert decode_header(header, Digests(key)) == (1, key is not None, checkpoint_id)

    def test_an_empty_journal_has_no_records(self):
        assert read(encode_header(ID, Digests())) == []

    def test_what_is_appended_while_a_reader_is_at_work_is_not_looked_at(self):
        journal, spans = write(*SEVERAL)
        end = spans[2][1]
        assert list(scan(lambda offset, n: journal[offset : offset + n], end, ID, Digests())) == read(journal)[:3]


# --- damage ------------------------------------------------------------------------------------------------------


def check_survivors(journal, whole, damaged):
    """Every record of `damaged` is one of `whole`, in order; damage fills exactly the gaps between them."""
    items = read(damaged)
    records = [item for item in items if isinstance(item, Record)]
    assert all(record in whole for record in records)
    assert [r.sequence for r in records] == sorted({r.sequence for r in records})
    offset = HEADER_SIZE
    for i, item in enumerate(items):
        assert item.offset == offset
        if isinstance(item, Damage):
            assert item.size > 0
            assert isinstance(items[i + 1], Record), "damage is told from a torn tail by a record behind it"
            offset += item.size
        else:
            offset = item.payload_offset + item.payload_size
    return [r.sequence for r in records]


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class TestReserved:
    def test_a_record_whose_reserved_bytes_are_not_zero_is_none_although_its_check_agrees(self):
        body = b'{"at": 9.0}'
        for at in (5, 6, 7):
            head = bytearray(struct.pack("<4sB3sIIQ", fmt.MARKER, Kind.RUN_ENDED, bytes(3), len(body), 0, 1))
            head[at] = 1
            record = bytes(head) + Digests().check(ID + head + body) + body
            assert read(encode_header(ID, Digests()) + record) == []


class TestTornTail:
    def test_cut_at_any_length_exactly_the_whole_records_are_left_and_no_damage(self):
        journal, spans = write(*SEVERAL)
        whole = read(journal)
        for length in range(HEADER_SIZE, len(journal) + 1):
            n = sum(end <= length for _, end in spans)
            assert read(journal[:length]) == whole[:n], f"cut at {length}"

    def test_a_tail_that_holds_a_copy_of_the_journal_so_far_gives_nothing_back(self):
        older, _ = write(*SEVERAL)
        journal, spans = write(*SEVERAL, (commit_of("copy", older), older))
        whole = read(journal)
        assert len(whole) == len(SEVERAL) + 1
        for length in range(spans[-1][0], len(journal)):
            assert read(journal[:length]) == whole[:-1], f"cut at {length}"

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    @example(b"\xb7DG\xc3" * 30)
    @example(bytes(200))
    def test_garbage_behind_the_last_record_is_dropped(self, garbage):
        journal, _ = write(*SEVERAL)
        assert read(journal + garbage) == read(journal)

    def test_the_next_writer_goes_on_where_the_torn_tail_began(self):
        journal, spans = write(*SEVERAL)
        begin, end = spans[4]
        writer = RecordWriter(ID, Digests(), sequence=4)
        mended = journal[:begin] + event(writer, Kind.RUN_ENDED, {"at": 7.0})
        assert read(journal[: end - 1]) == read(journal)[:4]
        assert json_in(read(mended)[-1]) == {"at": 7.0}
        assert len(read(mended)) == 5


class TestFlippedBits:
    def test_every_record_that_was_not_touched_is_read_and_the_touched_one_is_damage_or_tail(self):
        journal, spans = write(*SEVERAL)
        whole = read(journal)
        for bit in range(HEADER_SIZE * 8, len(journal) * 8):
            touched = next(i for i, (_, end) in enumerate(spans) if bit // 8 < end)
            in_payload = bit // 8 >= whole[touched].payload_offset
            damaged = flipped(journal, bit)
            expected = [i + 1 for i in range(len(whole)) if i != touched or in_payload]
            assert check_survivors(journal, whole, damaged) == expected, f"bit {bit}"
            damage = [item for item in read(damaged) if isinstance(item, Damage)]
            if in_payload or touched == len(whole) - 1:
                assert damage == []
            else:
                begin, end = spans[touched]
                assert damage == [Damage(begin, end - begin)]

    def test_a_flip_in_a_payload_is_what_the_digest_in_its_record_finds(self):
        payload = b"payload of a"
        journal, [(_, end)] = write((commit_of("a", payload), payload))
        for bit in range((end - len(payload)) * 8, end * 8):
            [record] = read(flipped(journal, bit))
            found = flipped(journal, bit)[record.payload_offset : record.payload_offset + record.payload_size]
            assert blake3(found).digest() != commit_in(record).digest

    def test_every_flip_in_the_header_is_refused_or_tells_another_version(self):
        header = encode_header(ID, Digests())
        for bit in range(len(header) * 8):
            try:
                found = decode_header(flipped(header, bit), Digests())
            except ValueError:
                continue
            assert found.version != FORMAT_VERSION, f"bit {bit}"
            assert 64 <= bit < 96, "only the bits of the version may tell a version"

    @given(
        st.lists(
            st.tuples(st.integers(HEADER_SIZE, 100_000), st.binary(min_size=1, max_size=60)), min_size=1, max_size=6
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_nothing_that_was_not_written_is_ever_read_whatever_is_written_over(self, scribbles):
        journal, spans = write(*SEVERAL)
        whole = read(journal)
        damaged = bytearray(journal)
        for at, data in scribbles:
            at = HEADER_SIZE + at % (len(journal) - HEADER_SIZE)
            damaged[at : at + len(data)] = data
        del damaged[len(journal) :]
        damaged = bytes(damaged)
        kept = {i + 1 for i, (begin, end) in enumerate(spans) if journal[begin:end] == damaged[begin:end]}
        assert kept <= set(check_survivors(journal, whole, damaged))

    def test_two_damaged_neighbours_are_one_damage(self):
        journal, spans = write(*SEVERAL)
        damaged = flipped(flipped(journal, spans[1][0] * 8), (spans[2][0] + 5) * 8)
        assert [item for item in read(damaged) if isinstance(item, Damage)] == [
            Damage(spans[1][0], spans[2][1] - spans[1][0])
        ]

    def test_records_that_are_missing_are_damage_of_no_size(self):
        journal, spans = write(*SEVERAL)
        cut_out = journal[: spans[1][0]] + journal[spans[2][1] :]
        first, missing, *others = read(cut_out)
        assert missing == Damage(spans[1][0], 0)
        assert [r.sequence for r in (first, *others)] == [1, 4, 5, 6]

    def test_records_that_were_copied_to_the_end_are_not_taken_again(self):
        journal, spans = write(*SEVERAL)
        whole = read(journal)
        assert read(journal + journal[HEADER_SIZE : spans[3][1]]) == whole


class TestEmbeddedJournals:
    """Results that contain records: a task may return the bytes of a journal."""

    def test_older_records_inside_a_result_whose_own_header_is_damaged_are_not_taken(self):
        older, _ = write(*SEVERAL)
        journal, spans = write(*SEVERAL, (commit_of("copy", older), older), (Kind.RUN_ENDED, {"at": 9.0}))
        whole = read(journal)
        begin, end = spans[-2]
        for bit in range(begin * 8, whole[-2].payload_offset * 8):
            items = read(flipped(journal, bit))
            assert items == [*whole[:-2], Damage(begin, end - begin), whole[-1]], f"bit {bit}"

    def test_records_of_another_checkpoint_are_not_taken_even_with_higher_numbers(self):
        other = RecordWriter(bytes(16), Digests(), sequence=1000)
        payload = b"".join(event(other, Kind.FAILED, {"name": f"n{i}"}) for i in range(5))
        journal, spans = write(*SEVERAL, (commit_of("copy", payload), payload), (Kind.RUN_ENDED, {"at": 9.0}))
        whole = read(journal)
        begin, end = spans[-2]
        for bit in range(begin * 8, whole[-2].payload_offset * 8):
            assert read(flipped(journal, bit)) == [*whole[:-2], Damage(begin, end - begin), whole[-1]], f"bit {bit}"

    def test_a_whole_record_hides_what_is_inside_its_payload(self):
        inside = event(RecordWriter(ID, Digests(), sequence=1000), Kind.INVALIDATED, {"names": ["a"], "lost": True})
        journal, _ = write((commit_of("a", inside), inside), (Kind.RUN_ENDED, {"at": 9.0}))
        assert [r.kind for r in read(journal)] == [Kind.COMMITTED, Kind.RUN_ENDED]

    def test_a_record_that_claims_more_than_the_file_holds_is_none(self):
        writer = RecordWriter(ID, Digests())
        frame = writer.frame(Kind.COMMITTED, encode_commit(commit_of("a", bytes(100))), 100)
        later = event(writer, Kind.RUN_ENDED, {"at": 9.0})
        journal = encode_header(ID, Digests()) + frame + later
        assert read(journal) == [
            Damage(HEADER_SIZE, len(frame)),
            Record(Kind.RUN_ENDED, 2, HEADER_SIZE + len(frame), b'{"at": 9.0}', len(journal), 0),
        ]


class TestKeys:
    def test_a_wrong_key_is_refused(self):
        with pytest.raises(ValueError, match="another signing key"):
            decode_header(GOLDEN_KEYED, Digests(b"kez"))

    def test_a_signed_journal_without_a_key_is_refused(self):
        with pytest.raises(ValueError, match="no signing key was given"):
            decode_header(GOLDEN_KEYED, Digests())

    def test_a_key_for_an_unsigned_journal_is_refused(self):
        with pytest.raises(ValueError, match="not signed"):
            decode_header(GOLDEN, Digests(b"key"))

    def test_the_flag_cannot_be_taken_away_or_added(self):
        with pytest.raises(ValueError, match="check of its header"):
            decode_header(flipped(GOLDEN_KEYED, 12 * 8), Digests())
        with pytest.raises(ValueError, match="another signing key"):
            decode_header(flipped(GOLDEN, 12 * 8), Digests(b"key"))

    def test_no_record_is_read_with_another_key_or_another_checkpoint_id(self):
        journal, _ = write(*SEVERAL, key=b"key")
        assert len(read(journal, b"key")) == len(SEVERAL)
        assert read(journal, b"kez") == read(journal) == read(journal, b"key", bytes(16)) == []

    def test_a_record_that_was_made_without_the_key_is_not_read(self):
        journal, _ = write(*SEVERAL, key=b"key")
        forged = event(
            RecordWriter(ID, Digests(), sequence=len(SEVERAL)), Kind.INVALIDATED, {"names": ["a"], "lost": False}
        )
        assert read(journal + forged, b"key") == read(journal, b"key")


class TestHeader:
    def test_a_newer_version_is_told_and_nothing_behind_it_is_judged(self):
        newer = fmt.MAGIC + struct.pack("<I", FORMAT_VERSION + 1)
        assert decode_header(newer, Digests()).version == FORMAT_VERSION + 1
        assert decode_header(newer + b"whatever", Digests(b"key")).version == FORMAT_VERSION + 1

    @pytest.mark.parametrize("version", [1, 2])
    def test_what_was_before_version_1_is_version_0_whatever_it_says_itself(self, version):
        older = b"dagronJ\n" + struct.pack("<II", version, 0) + bytes(32)
        assert decode_header(older, Digests()) == decode_header(older[:8], Digests(b"key")) == (0, False, b"")

    @pytest.mark.parametrize("length", range(HEADER_SIZE))
    def test_one_that_is_cut_short_is_refused(self, length):
        with pytest.raises(ValueError, match=r"does not begin like a journal|cut short"):
            decode_header(encode_header(ID, Digests())[:length], Digests())

    @settings(deadline=None)
    @given(st.binary(max_size=100).filter(lambda data: not data.startswith((b"dagronJ\n", fmt.MAGIC))))
    def test_other_bytes_are_refused(self, data):
        with pytest.raises(ValueError, match="does not begin like a journal"):
            decode_header(data, Digests())


# --- reading in windows ------------------------------------------------------------------------------------------


class TestWindows:
    @pytest.mark.parametrize("window", [4, 5, 7, 39, 40, 41, 64, 100, 257, 1000])
    def test_records_are_found_wherever_the_borders_of_windows_fall(self, monkeypatch, window):
        journal, spans = write(*SEVERAL)
        whole = read(journal)
        monkeypatch.setattr(fmt, "_WINDOW", window)
        assert read(journal) == whole
        for i, (begin, end) in enumerate(spans[:-1]):
            damaged = flipped(journal, begin * 8)
            assert read(damaged) == [*whole[:i], Damage(begin, end - begin), *whole[i + 1 :]]

    @pytest.mark.parametrize("window", [5, 8, 13])
    def test_a_search_finds_a_marker_at_any_distance(self, monkeypatch, window):
        monkeypatch.setattr(fmt, "_WINDOW", window)
        last = event(RecordWriter(ID, Digests(), sequence=1), Kind.RUN_ENDED, {})
        for garbage in range(1, 60):
            journal = encode_header(ID, Digests()) + b"\xb7" * garbage + last
            damage, record = read(journal)
            assert (damage, record.offset) == (Damage(HEADER_SIZE, garbage), HEADER_SIZE + garbage)

    def test_bodies_and_payloads_larger_than_a_window_are_read(self):
        large = bytes(range(256)) * 10_000  # 2.4 windows
        commit = commit_of("n" * 1_500_000, large)
        items = ((Kind.RUN_STARTED, {"owns": ["x" * 2_500_000]}), (commit, large), (Kind.RUN_ENDED, {"at": 1.0}))
        journal, spans = write(*items)
        started, committed, _ = whole = read(journal)
        assert json_in(started) == items[0][1]
        assert commit_in(committed) == commit._replace(payload_offset=spans[1][1] - len(large), sequence=2)
        damaged = flipped(journal, (spans[1][0] + RECORD_SIZE) * 8)
        begin, end = spans[1]
        assert read(damaged) == [whole[0], Damage(begin, end - begin), whole[2]]
        assert read(journal[: spans[1][1] - 1]) == [whole[0]]

    def test_a_reader_that_gets_little_at_a_time_at_the_end_sees_the_same(self):
        # `read_at` may return fewer bytes at the end of the file only; the window must not rely on more.
        journal, _ = write(*SEVERAL)
        asked = []

        def read_at(offset, n):
            asked.append((offset, n))
            return journal[offset : offset + n]

        assert list(scan(read_at, len(journal), ID, Digests())) == read(journal)
        assert len(asked) == 1, "a small journal is read at once"

    def test_a_large_journal_is_read_about_once(self):
        items = [(commit_of(f"n{i}", bytes(1000)), bytes(1000)) for i in range(3000)]
        journal, _ = write(*items)
        n_read = 0

        def read_at(offset, n):
            nonlocal n_read
            data = journal[offset : offset + n]
            n_read += len(data)
            return data

        assert sum(1 for _ in scan(read_at, len(journal), ID, Digests())) == 3000
        assert n_read < 1.5 * len(journal)


def test_bodies_that_are_not_commits_are_json_objects_for_other_programs_to_read():
    for record in read(GOLDEN):
        if record.kind != Kind.COMMITTED:
            assert isinstance(json.loads(record.body.decode("ascii")), dict)
