"""The second place for runs: a real S3 server on the loopback, or a folder."""

import contextlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from support import stored
from support.project import write_params
from support.servers import free_port

from effvis.errors import UserError
from pipeline import ablate, storage
from pipeline.engine.run import train_run
from pipeline.grid.rows import headline_spec, load_table
from pipeline.planning.plan import plan_rows
from pipeline.runs import remote
from pipeline.runs.log import RunLog
from pipeline.runs.remote import Manifest, Storage
from pipeline.runs.storage import Keeper, keeping
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.system.files import file_sha256

KEY, EVALUATION = "0123456789abcdef", "fedcba9876543210"
moto_server = pytest.importorskip("moto.server", reason="moto[s3], of the extra dev, is the S3 server")


class S3:
    """Moto's server at one port; its content stays while this process lives."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.port = free_port()
        self.start()

    def start(self):
        self._server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self):
        self._server.stop()

    def address(self, bucket):
        from pyarrow.fs import FileSystem

        options = f"scheme=http&endpoint_override=127.0.0.1:{self.port}&allow_bucket_creation=true"
        files, base = FileSystem.from_uri(f"s3://{bucket}?{options}")
        files.create_dir(base)
        return f"s3://{bucket}/effvis?{options}"


@pytest.fixture(scope="module")
def s3():
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(zip(names, ("key", "secret", "us-east-1"), strict=True))
    server = S3()
    yield server
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["s3", "folder"])
def address(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "storage")
    return request.getfixturevalue("s3").address(f"bucket-{abs(hash(tmp_path))}")


def train(store, steps, *, finish=False):
    """Stores a training that has made this many steps, with a checkpoint of its last step."""
    store.begin(KEY, {"a": 1})
    log = RunLog(store.folder(KEY))
    log.resume()
    for step in range(stored.steps_done(store.folder(KEY)) + 1, steps + 1):
        log.append({"step": step})
    log.checkpoint({"step": steps, "w": torch.full((3,), float(steps))}, steps)
    log.close()
    if finish:
        store.finish(KEY, {"w": torch.ones(3)}, {"steps": steps})


def evaluate(store, evaluation=EVALUATION):
    store.write_evaluation(KEY, evaluation, [{"video_id": 1}], {"per_category": {}, "metrics": {"AP": 0.5}})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(place):
    return {info.base_name for info in place._objects(KEY)}


def test_a_run_goes_on_and_ends_elsewhere(tmp_path, address):
    here, there, place = RunStore(tmp_path / "here"), RunStore(tmp_path / "there"), Storage(address)
    here.begin(KEY, {"a": 1})
    assert not place.push(here, KEY) and place.runs() == set(), "nothing is worth to be kept yet"
    train(here, 4)
    assert place.push(here, KEY) and not place.push(here, KEY)
    assert place.pull(there, KEY) and not place.pull(there, KEY)
    assert files(here.folder(KEY)) == files(there.folder(KEY))
    assert RunLog(there.folder(KEY)).resume()["step"] == 4

    train(there, 6, finish=True)
    evaluate(there)
    assert place.push(there, KEY)
    assert objects(place) == {remote.MANIFEST, *(one.object for one in place.manifest(KEY).files.values())}
    assert place.pull(here, KEY)
    assert here.is_done(KEY) and here.evaluation(KEY, EVALUATION) == there.evaluation(KEY, EVALUATION)
    kept = {name: content for name, content in files(here.folder(KEY)).items() if not name.startswith("checkpoint/")}
    assert kept == files(there.folder(KEY))


def test_nothing_goes_back(tmp_path, address):
    far, near, place = RunStore(tmp_path / "far"), RunStore(tmp_path / "near"), Storage(address)
    train(far, 6)
    train(near, 4)
    place.push(far, KEY)
    before = place.manifest(KEY)
    assert not place.push(near, KEY) and place.manifest(KEY) == before
    train(far, 8)
    assert not place.pull(far, KEY)
    train(far, 9, finish=True)
    evaluate(far)
    place.push(far, KEY)
    train(near, 9, finish=True)
    evaluate(near, "another0another0")
    assert place.push(near, KEY), "a further evaluation comes to what is there"
    names = place.manifest(KEY).files
    assert {f"eval/{EVALUATION}/metrics.json", "eval/another0another0/metrics.json"} <= names.keys()
    assert names["done.json"].sha256 == file_sha256(far.folder(KEY) / "done.json")


def test_a_push_that_broke_off_changes_nothing(tmp_path, monkeypatch):
    here, place = RunStore(tmp_path / "here"), Storage(str(tmp_path / "storage"))
    train(here, 4)
    place.push(here, KEY)
    train(here, 8)
    write = Storage._write

    def broken(self, where, content):
        if where.endswith(remote.MANIFEST):
            raise OSError("the connection broke")
        write(self, where, content)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="broke"):
        patched.setattr(Storage, "_write", broken)
        place.push(here, KEY)
    there = RunStore(tmp_path / "there")
    assert place.pull(there, KEY) and RunLog(there.folder(KEY)).resume()["step"] == 4
    left = objects(place)
    yesterday = time.time() - 1.1 * remote._LEFTOVER_SECONDS
    for name in left:
        os.utime(tmp_path / "storage" / KEY / name, (yesterday, yesterday))
    train(here, 9, finish=True)
    assert place.push(here, KEY)
    assert left - objects(place) and objects(place) == {remote.MANIFEST, *(one.object for one in
                                                                              place.manifest(KEY).files.values())}


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_what_is_damaged_is_not_taken(tmp_path, how):
    here, there, place = RunStore(tmp_path / "here"), RunStore(tmp_path / "there"), Storage(str(tmp_path / "storage"))
    train(here, 4, finish=True)
    place.push(here, KEY)
    file = tmp_path / "storage" / KEY / place.manifest(KEY).files["weights.safetensors"].object
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content) if how == "changed" else file.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        place.pull(there, KEY)
    assert not there.is_done(KEY) and not there.weights_file(KEY).exists() and not (there.folder(KEY) / "done.json").exists()
    assert place.push(here, KEY) == (how == "missing"), "what is lost is brought again"
    if how == "missing":
        assert place.pull(there, KEY) and there.is_done(KEY)


def test_two_who_push_at_once_delete_nothing_of_each_other(tmp_path, monkeypatch):
    one, other, place = RunStore(tmp_path / "one"), RunStore(tmp_path / "other"), Storage(str(tmp_path / "storage"))
    train(one, 4)
    place.push(one, KEY)
    train(one, 9, finish=True)
    train(other, 9)
    other.finish(KEY, {"w": torch.ones(3)}, {"steps": 9, "seconds": 2.0})
    forget = Storage._forget

    def meanwhile(self, key, before):
        monkeypatch.setattr(Storage, "_forget", forget)
        manifest = tmp_path / "storage" / KEY / "manifest.json"
        mine = manifest.read_bytes()
        manifest.write_bytes(first)
        assert place.push(other, KEY)
        theirs = manifest.read_bytes()
        assert theirs != mine
        forget(self, key, before)

    first = (tmp_path / "storage" / KEY / "manifest.json").read_bytes()
    monkeypatch.setattr(Storage, "_forget", meanwhile)
    place.push(one, KEY)
    there = RunStore(tmp_path / "there")
    assert place.pull(there, KEY) and there.is_done(KEY)


@pytest.mark.parametrize("name, thing", [
    ("../../outside", "0" * 64 + "-x"), ("/outside", "0" * 64 + "-x"), ("a/../../outside", "0" * 64 + "-x"),
    (".locks/x", "0" * 64 + "-x"), ("weights.safetensors", "../" + "0" * 64), ("x", "0" * 64 + "-../x")])
def test_no_file_is_written_outside_a_run(tmp_path, name, thing):
    folder = tmp_path / "storage" / KEY
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"files": {"done.json": {"object": "0" * 64 + "-done.json", "bytes": 1},
                                                                name: {"object": thing, "bytes": 1}}}))
    with pytest.raises(UserError, match="files"):
        Storage(str(tmp_path / "storage")).pull(RunStore(tmp_path / "store"), KEY)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("wrong", ["nosuch://bucket/folder", "s3://", "nosuch://name:hidden@bucket"])
def test_an_address_that_is_none_is_told_at_once(wrong):
    with pytest.raises(UserError) as told:
        Storage(wrong)
    assert "storage_path" in str(told.value) and "hidden" not in str(told.value)


def test_a_bucket_that_is_not_there_is_told_at_once(s3):
    with pytest.raises(UserError, match="there is no bucket"):
        Storage(s3.address("there").replace("s3://there", "s3://elsewhere"))


def test_one_damaged_run_is_in_no_other_ones_way(tmp_path, tiny_project, capsys):
    params = load_params(tiny_project(storage_path=str(tmp_path / "storage")) / "params.yaml")
    store = RunStore(params.runs_dir)
    train(store, 4)
    shutil.copytree(store.folder(KEY), store.folder(KEY[::-1]))
    place = Storage(params.storage_path)
    damaged = tmp_path / "storage" / KEY / "manifest.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    with keeping(params):
        pass
    said = capsys.readouterr().err
    assert "is no JSON" in said and "python -m pipeline.storage --push" in said
    assert place.manifest(KEY[::-1]) is not None
    damaged.unlink()
    with keeping(params):
        pass
    assert not capsys.readouterr().err and place.manifest(KEY) is not None


def test_an_address_is_no_run_store(tiny_project):
    with pytest.raises(UserError, match="set storage_path"):
        load_params(tiny_project(runs_dir="s3://bucket/runs") / "params.yaml")


@pytest.mark.slow
def test_a_server_that_goes_is_brought_what_it_lacks_later(tmp_path, s3, tiny_project, capsys):
    address = s3.address("goes")
    params = load_params(tiny_project(storage_path=address) / "params.yaml")
    store, place = RunStore(params.runs_dir), Storage(address)
    with Keeper(params, place, every=0.1, first=0.1, last=60):
        train(store, 4)
        _wait_for(lambda: place.manifest(KEY) is not None)
        s3.stop()
        train(store, 8)
        _wait_for(lambda: "the runs go on" in capsys.readouterr().err)
        with pytest.raises(UserError, match="storage_path: s3://goes/effvis.* cannot be used"):
            Storage(address)
        s3.start()
    assert "checkpoint/step_00000008.pt" in place.manifest(KEY).files
    assert "lacks" not in capsys.readouterr().err


def _wait_for(condition, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_training_goes_on_on_another_machine(tiny_project, s3, capsys):
    project = tiny_project(storage_path=s3.address("machines"), pretrain={"source": "none"}, train={"epochs": 4})
    params = load_params(project / "params.yaml")
    spec = headline_spec(params).train
    alone = params.model_copy(update={"runs_dir": project / "alone", "storage_path": None})
    train_run(alone, spec)
    steps = RunStore(alone.runs_dir).done(spec.key)["steps"]
    assert steps > 2

    first = params.model_copy(update={"runs_dir": project / "first"})
    with contextlib.suppress(KeyboardInterrupt), keeping(first):
        train_run(first, spec, report=lambda progress: True)  # asked to stop after its first step
    (reached,) = stored.saved_at(first.runs_dir / spec.key)
    assert 0 < reached < steps
    shutil.rmtree(first.runs_dir)

    second = params.model_copy(update={"runs_dir": project / "second"})
    began = []
    with keeping(second):
        train_run(second, spec, report=lambda progress: began.append(progress["step"]))
    assert f"{spec.key}: taken from" in capsys.readouterr().err and began[0] == reached + 1
    weights = [RunStore(one.runs_dir).weights_file(spec.key).read_bytes() for one in (alone, second)]
    assert weights[0] == weights[1]
    assert stored.steps_done(second.runs_dir / spec.key) == steps
    assert "done.json" in Storage(params.storage_path).manifest(spec.key).files


def test_a_grid_takes_what_another_cluster_has_done(tiny_project, tmp_path, capsys):
    project = tiny_project(storage_path=str(tmp_path / "storage"), seeds=1)
    params = load_params(project / "params.yaml")
    row = load_table(params, "table1e").rows[0]
    plan = plan_rows(params, [row])
    for spec in plan.trainings:
        stored.train(params, spec, 4)
    for spec in plan.evaluations:
        stored.evaluate(params, spec, ap=0.4321)
    assert storage.main(["--push", "--params", str(project / "params.yaml")]) == 0
    keys = {spec.key for spec in plan.trainings}
    assert f"{len(keys)} runs had news" in capsys.readouterr().out
    shutil.rmtree(params.runs_dir)

    assert plan_rows(params, [row]).missing
    arguments = ["--grid", "table1e", "--rows", row.name, "--params", str(project / "params.yaml")]
    ablate.main(arguments)
    assert "runs were taken from" in capsys.readouterr().err
    assert "43.2" in (params.results_dir / "table1e.md").read_text()
    shutil.rmtree(params.runs_dir)
    write_params(project, storage_path=None)
    with pytest.raises(UserError, match="storage_path: is not set"):
        storage.main(["--pull", "--params", str(project / "params.yaml")])
    assert storage.main(["--pull", "-S", f"storage_path={tmp_path / 'storage'}", "--params", str(project / "params.yaml")]) == 0
    assert {path.name for path in Path(params.runs_dir).iterdir() if not path.name.startswith(".")} == keys


def test_a_manifest_says_what_is_wrong_with_it(tmp_path):
    folder = tmp_path / "storage" / KEY
    folder.mkdir(parents=True)
    for content, problem in (("{", "no JSON"), ("[]", "files"), ('{"files": {"x": {"object": "x", "bytes": 1}}}', "files.x")):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=problem):
            Storage(str(tmp_path / "storage")).manifest(KEY)
    assert Manifest(files={}).files == {}
