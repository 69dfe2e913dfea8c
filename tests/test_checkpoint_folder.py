"""The latest complete checkpoint is found, whatever an interrupted copy or a crash left."""

import threading

import pytest
import tensorflow as tf

from keras_efficientnet.checkpoint_folder import CheckpointFolder

DATA = "ckpt-{}.data-00000-of-00001"
VALUE = "value/.ATTRIBUTES/VARIABLE_VALUE"


def write(step):
    """Returns a function that writes a checkpoint which holds its step a thousand times."""
    return tf.train.Checkpoint(value=tf.Variable(tf.fill([1000], step))).write


def save(folder, *steps, keep=9):
    for step in steps:
        CheckpointFolder(folder).save(step, write(step), keep)


def step_of(path):
    return None if path is None else int(tf.train.load_checkpoint(path).get_tensor(VALUE)[0])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path):
    """A run folder with three checkpoints."""
    save(tmp_path, 2, 4, 10)
    return tmp_path


def test_tensorflow_finds_the_latest_checkpoint(saved):
    """Its own functions read the file `checkpoint`."""
    folder = str(saved)
    assert tf.train.latest_checkpoint(folder) == CheckpointFolder(saved).latest() == f"{folder}/ckpt-10"
    state = tf.train.get_checkpoint_state(folder)
    assert state.all_model_checkpoint_paths == [f"{folder}/ckpt-{step}" for step in (2, 4, 10)]


STATES = {"lost": None, "empty": b"", "zeros": bytes(90), "bytes": b"\xff", "old": b'model_checkpoint_path: "ckpt-4"\n'}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_lost_or_damaged_list_of_checkpoints_loses_none(saved, state, caplog):
    (saved / "checkpoint").unlink()
    if state is not None:
        (saved / "checkpoint").write_bytes(state)
    assert step_of(CheckpointFolder(saved).latest()) == 10
    assert step_of(CheckpointFolder(saved).recover()) == 10
    assert "checkpoint does not name ckpt-10" in caplog.text
    assert tf.train.latest_checkpoint(str(saved)).endswith("ckpt-10")
    caplog.clear()
    CheckpointFolder(saved).recover()
    assert not caplog.text


@pytest.mark.parametrize("file", [DATA, "ckpt-{}.index"])
@pytest.mark.parametrize("damage", ["removed", "empty", "zeros", "cut", "changed"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(saved, file, damage, caplog):
    path = saved / file.format(10)
    content = path.read_bytes()
    changed = {"empty": b"", "zeros": bytes(len(content)), "cut": content[:-40]}
    changed["changed"] = content[:20] + bytes([content[20] ^ 1]) + content[21:]
    path.unlink() if damage == "removed" else path.write_bytes(changed[damage])
    assert step_of(CheckpointFolder(saved).recover()) == 4
    assert "does not name ckpt-4" in caplog.text
    is_listed = (file, damage) != ("ckpt-{}.index", "removed")
    assert ("ckpt-10 is incomplete or damaged, and is not used: " in caplog.text) == is_listed


def test_the_names_of_an_interrupted_copy_do_not_count(saved):
    """They are those of rsync, of a browser and of Windows."""
    for name in (".ckpt-12.index.Xa31fk", "ckpt-12.index.part", "ckpt-12 (1).index", "my-ckpt-12.index"):
        (saved / name).write_bytes(b"")
    assert step_of(CheckpointFolder(saved).latest()) == 10


@pytest.mark.parametrize("left", [["checkpoint"], [DATA.format(4)], ["ckpt-4.index"], ["ckpt-4.index", "checkpoint"]])
def test_the_remains_of_a_run_do_not_start_it_again(saved, left):
    for name in set(names(saved)) - set(left):
        (saved / name).unlink()
    with pytest.raises(ValueError, match="must hold a complete checkpoint.* Copy the folder again, or remove it to"):
        CheckpointFolder(saved).recover()


def test_an_empty_or_missing_folder_has_no_checkpoints(tmp_path, caplog):
    for folder in (tmp_path, tmp_path / "new"):
        assert CheckpointFolder(folder).recover() is None and not caplog.text


@pytest.mark.parametrize("cut", [None, 0, 99])
def test_a_kill_while_the_first_checkpoint_is_written_starts_the_run_again(tmp_path, cut):
    """TensorFlow moves the data out of its folder of parts, then writes the index, then removes the folder."""
    save(tmp_path, 2)
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-2_temp/part-00000-of-00001.index").touch()
    (tmp_path / "checkpoint").unlink()
    index = tmp_path / "ckpt-2.index"
    index.unlink() if cut is None else index.write_bytes(index.read_bytes()[:cut])
    CheckpointFolder(tmp_path).remove_incomplete()
    assert names(tmp_path) == [] and CheckpointFolder(tmp_path).recover() is None


def test_a_kill_just_after_a_checkpoint_was_written_keeps_it(saved):
    (saved / "ckpt-10_temp").mkdir()
    CheckpointFolder(saved).remove_incomplete()
    assert step_of(CheckpointFolder(saved).latest()) == 10 and "ckpt-10_temp" not in names(saved)


def test_the_latest_checkpoints_are_kept_and_damaged_later_ones_do_not_count(saved):
    (saved / DATA.format(10)).write_bytes(b"")
    save(saved, 6, 8, keep=2)
    assert [step_of(CheckpointFolder(saved).latest()), *names(saved)] == [
        8,
        "checkpoint",
        *(f"ckpt-{step}.{part}" for step in (10, 6, 8) for part in ("data-00000-of-00001", "index")),
    ]
    save(saved, 10, keep=2)
    assert step_of(tf.train.latest_checkpoint(str(saved))) == 10 and len(names(saved)) == 5


def test_waiting_gives_a_checkpoint_when_its_index_is_complete(saved):
    """TensorFlow writes the index in its place, so another process may see a part of it."""
    index = saved / "ckpt-10.index"
    content = index.read_bytes()
    index.write_bytes(content[:50])
    paths = CheckpointFolder(saved).wait(timeout=5)
    assert step_of(next(paths)) == 4
    threading.Timer(0.1, index.write_bytes, [content]).start()
    assert step_of(next(paths)) == 10


def test_waiting_gives_each_new_complete_checkpoint_once(saved, caplog):
    steps = []
    for path in CheckpointFolder(saved).wait(timeout=0.2):
        steps.append(step_of(path))
        if len(steps) == 1:
            save(saved, 12)
            (saved / DATA.format(12)).write_bytes(b"")
            save(saved, 11)
        if len(steps) == 2:
            save(saved, 14, 16, keep=1)
    assert steps == [10, 11, 16] and not caplog.text
    (saved / "ckpt-18.index").write_bytes(b"")
    assert [step_of(path) for path in CheckpointFolder(saved).wait(timeout=0)] == [16]
    assert "ckpt-18 is incomplete or damaged" in caplog.text
    assert list(CheckpointFolder(saved / "new").wait(timeout=0)) == []
