"""Reading files: training checkpoints are read, code and forged NumPy state are refused."""

import os
import pickle
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from acon_mm import compat
from acon_mm.checkpoints import CheckpointError, load_checkpoint, reading
from acon_mm.checkpoints.reading import allow_training_checkpoints, disallow_training_checkpoints
from helpers.allowed_types import add_safe_globals, clear_safe_globals, get_safe_globals, kept_list, safe_globals


@pytest.fixture(autouse=True, params=["list", "unpickler"] if compat.TAKES_ALLOWED_TYPES else ["unpickler"])
def reader(request, monkeypatch):
    """PyTorch's own reader with the list of types, where there is one, and ours."""
    if request.param == "list" and not compat.TAKES_ALLOWED_TYPES:
        pytest.skip("this PyTorch has no list of allowed types")
    with kept_list():
        monkeypatch.setattr(compat, "TAKES_ALLOWED_TYPES", request.param == "list")
        monkeypatch.setattr(reading, "_training_state_is_allowed", False)  # and afterwards what it was
        allow_training_checkpoints()
        yield request.param
        disallow_training_checkpoints()


by_list = pytest.mark.parametrize("reader", ["list"], indirect=True)


RECONSTRUCT, SCALAR = np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]


class Reduces:
    """Pickles as a call of `function` with `args`, and `state` set on what it returns."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def write_archive(path: Path, pickled: bytes) -> Path:
    """A checkpoint around a pickle of our own making."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


# A training checkpoint, as MMEngine writes it


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        out = self.fc(torch.stack(inputs))
        return {"loss": out.pow(2).mean()} if mode == "loss" else list(out)


class Metric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {"score": np.float32(0.5) * len(results)}


def make_runner(work_dir: Path, max_epochs: int, **kwargs) -> Runner:
    data = {
        "batch_size": 2,
        "dataset": [{"inputs": torch.tensor([1.0, float(i)])} for i in range(4)],
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }
    with DefaultScope.overwrite_default_scope("mmengine"):  # which the runner would set for all that follows
        return Runner(
            model=Model(),
            work_dir=str(work_dir),
            train_dataloader=data,
            val_dataloader=data,
            train_cfg={"by_epoch": True, "max_epochs": max_epochs},
            val_cfg={},
            val_evaluator=[Metric()],
            optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
            param_scheduler={"type": "LinearLR", "end": 4},
            default_hooks={
                "checkpoint": {"type": "CheckpointHook", "interval": 1, "save_best": "score", "rule": "greater"}
            },
            custom_hooks=[{"type": "EMAHook"}],
            default_scope="mmengine",
            experiment_name=f"{work_dir.name}_{max_epochs}",
            **kwargs,
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    work_dir = tmp_path_factory.mktemp("trained")
    allow_training_checkpoints()  # the hook reads a checkpoint back, to mark it as the best
    make_runner(work_dir, max_epochs=2).train()
    return work_dir / "epoch_2.pth"


def test_training_checkpoint_loads(trained):
    checkpoint = load_checkpoint(trained)
    assert set(checkpoint) >= {"meta", "state_dict", "ema_state_dict", "message_hub", "optimizer", "param_schedulers"}
    loss = checkpoint["message_hub"]["log_scalars"]["train/loss"]
    assert type(loss) is HistoryBuffer
    values, counts = loss.data
    assert type(values) is np.ndarray and values.dtype == np.float64 and counts.tolist() == [1] * 4
    assert loss.statistics("mean") == values.mean() > 0
    assert checkpoint["message_hub"]["runtime_info"]["best_score"] == 1.0


def test_training_is_resumed_from_it(trained, tmp_path):
    runner = make_runner(tmp_path, max_epochs=3, load_from=str(trained), resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    assert len(runner.message_hub.get_scalar("train/loss").data[0]) == 6
    assert {int(state["step"]) for state in runner.optim_wrapper.state_dict()["state"].values()} == {6}


def test_it_is_refused_where_it_is_not_allowed(trained):
    disallow_training_checkpoints()
    with pytest.raises(CheckpointError, match=r"is refused: it asks for \S*(HistoryBuffer|numpy|getattr)"):
        load_checkpoint(trained)


@by_list
def test_undo_leaves_alone_what_others_allowed():
    disallow_training_checkpoints()
    others = set(get_safe_globals())
    allow_training_checkpoints()
    assert set(get_safe_globals()) > others
    with safe_globals([HistoryBuffer, Path]):  # one of ours by its own name, and one that is not
        disallow_training_checkpoints()
        assert set(get_safe_globals()) == others | {HistoryBuffer, Path}
    assert set(get_safe_globals()) == others


@by_list
@pytest.mark.parametrize("entry", [getattr, np.dtype, np.ndarray, HistoryBuffer, RECONSTRUCT, SCALAR])
def test_works_where_another_entry_of_the_same_name_wins(trained, entry):
    """Ours, or NumPy's own that others have allowed: their hashes decide which one PyTorch takes."""
    name = f"{entry.__module__}.{entry.__qualname__}"
    rest = [each for each in get_safe_globals() if not (isinstance(each, tuple) and each[1] == name)]
    assert len(rest) == len(get_safe_globals()) - 1
    clear_safe_globals()
    add_safe_globals([*rest, entry])
    assert load_checkpoint(trained)["message_hub"]["log_scalars"]["train/loss"].statistics("mean") > 0


# NumPy


@pytest.mark.parametrize("code", "?bhilBHILefdgFDG")
@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_numbers_survive(tmp_path, code, zipped):
    array = np.arange(6).astype(code).reshape(2, 3).T
    path = tmp_path / "a.pth"
    torch.save({"array": array, "number": array[1, 1]}, path, _use_new_zipfile_serialization=zipped)
    read = load_checkpoint(path)
    assert read["number"] == array[1, 1] and type(read["number"]) is type(array[1, 1])
    assert read["array"].dtype == array.dtype and np.array_equal(read["array"], array)

    torch.save(read, path)  # as a plain array again
    assert b"acon_mm" not in path.read_bytes()


def test_checkpoints_of_the_other_numpy_load(tmp_path):
    pickled = pickle.dumps({"array": np.arange(3.0), "number": np.float64(2)}, protocol=2)
    old, new = b"numpy.core.", b"numpy._core."
    assert old in pickled or new in pickled
    path = write_archive(tmp_path / "a.pth", pickled.replace(new, old) if new in pickled else pickled.replace(old, new))
    assert load_checkpoint(path)["number"] == 2


def test_forged_dtype_flags_have_no_effect(tmp_path):
    """Flags that declare bytes to be objects would make NumPy follow them as pointers."""
    path = tmp_path / "a.pth"
    torch.save({"dtype": Reduces(np.dtype, "f8", False, True, state=(3, ">", None, None, None, -1, -1, 63))}, path)
    dtype = load_checkpoint(path)["dtype"]
    assert dtype.flags == np.dtype("f8").flags == 0 and dtype.isnative


def test_an_array_is_filled_once(tmp_path):
    """A tensor may share its memory by then."""
    pickled = pickle.dumps(np.arange(3.0), protocol=2)
    operations = [(operation.name, value) for operation, value, _ in pickletools.genops(pickled)]
    assert [name for name, _ in operations[-3:]] == ["BINPUT", "BUILD", "STOP"]
    refill = b"h" + bytes([operations[-3][1]]) + b"b."
    with pytest.raises(CheckpointError, match=r"it asks for numpy\.ndarray filled twice"):
        load_checkpoint(write_archive(tmp_path / "a.pth", pickled[:-1] + refill))


# Refusals


MARKER = "ran"
CODE = [
    (Reduces(os.system, f"touch {MARKER}"), "posix.system"),
    (Reduces(eval, f"open('{MARKER}', 'w').close()"), "eval"),
]


@pytest.mark.parametrize("value", [value for value, _ in CODE])
def test_code_would_run_otherwise(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    torch.save(value, "a.pth")
    torch.load("a.pth", weights_only=False)
    assert Path(MARKER).exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        *CODE,
        (Reduces(getattr, HistoryBuffer, "__init__"), "builtins.getattr"),
        (Reduces(getattr, torch.Tensor, "mean"), "builtins.getattr"),
        (Reduces(np.dtype, "O", False, True), "numpy.dtype(O)"),
        (np.array([{}], dtype=object), "numpy.dtype(O8)"),
        (np.array([(1, 2)], dtype="i4,i4"), "numpy.dtype(V8)"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, value, named, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.zeros(1)}, "value": value}, "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint("a.pth")
    assert str(refused.value).startswith(f"checkpoint a.pth is refused: it asks for {named}")
    assert "\n" not in str(refused.value)
    assert not Path(MARKER).exists()


def test_an_array_cannot_be_made_around_a_buffer(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"array": Reduces(np.ndarray, (1,), "O", b"AAAAAAAA")}, path)
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint: TypeError"):
        load_checkpoint(path)


def test_functions_of_a_log_buffer_are_dropped(tmp_path):
    before = dict(HistoryBuffer._statistics_methods)
    state = {
        "max_length": 9,
        "_log_history": np.array([3.0]),
        "_count_history": np.array([1]),
        "statistics_methods": {"mean": np.dtype("f8").type(7).__reduce__()[0]},
        "update": 1,
    }
    path = tmp_path / "a.pth"
    torch.save({"log": Reduces(HistoryBuffer, state=state)}, path)
    log = load_checkpoint(path)["log"]
    assert type(log) is HistoryBuffer and log.statistics("mean") == 3 and log.max_length == 9
    assert before.items() <= HistoryBuffer._statistics_methods.items() and "update" not in vars(log)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or not a checkpoint: EOFError"),
        (b"not a checkpoint", "is damaged or not a checkpoint: "),
        ("truncated", "is damaged or not a checkpoint: (OSError|RuntimeError) ."),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "a.pth"
    if content == "truncated":
        torch.save({"w": torch.zeros(5000)}, path)
        content = path.read_bytes()[:10000]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint \S+/a\.pth$"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="it is not a file"):
        load_checkpoint(tmp_path)
    torch.save([1], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="it contains a list, not a dictionary"):
        load_checkpoint(tmp_path / "a.pth")
