"""Rows of given weights: their keys follow from the weights, and what makes no sense is refused before anything runs."""

import hashlib
import pickle
from contextlib import nullcontext
from dataclasses import replace

import pytest
import yaml
from safetensors.torch import load_file, save_file
from support.given import ROW, TABLE, put_model, write_table_of
from support.project import write_params
from support.published_weights import network

from effvis.errors import UserError
from effvis.model.conversion import Conversion
from pipeline.grid import starts
from pipeline.grid.given import check_weights
from pipeline.grid.rows import find_evaluation, find_row, load_table
from pipeline.identity.specs import GivenSpec
from pipeline.planning.plan import plan_rows
from pipeline.settings.loading import load_params

GIVEN = {"weights": "models/x"}


def loaded(project, *overrides):
    params = load_params(project / "params.yaml", overrides)
    return params, load_table(params, TABLE)


def edit(folder, **changes):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def test_a_row_is_one_evaluation_of_the_described_network_and_no_training(tiny_project):
    project = tiny_project(seeds=3)
    folder = put_model(project, "vistr")
    write_table_of(project, GIVEN, {"T": 9, "cl": True}, curves=True)
    params, table = loaded(project, "resources.snapshots=2")
    given, trained = table.rows
    (spec,) = given.evaluations
    assert isinstance(spec.train, GivenSpec) and spec.train.method == "vistr" and given.curve == ()
    assert len(trained.evaluations) == 3 and len(trained.curve) == 6
    assert spec.train.sha256 == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert spec.inference.linking == "hand-craft" and spec.inference.presence_threshold == 0.0
    plan = plan_rows(params, [given])
    assert plan.trainings == () and plan.missing == {spec.key} and plan.labels == {spec.key: f"{TABLE}: {ROW}"}
    assert pickle.loads(pickle.dumps(spec)) == spec and len({spec, find_evaluation(params, f"{TABLE}:{ROW}", 2)}) == 1


def test_the_key_follows_from_weights_network_inference_and_data_alone(tiny_project, tmp_path):
    project = tiny_project()
    folder = put_model(project)
    write_table_of(project, GIVEN, {"weights": "models/y/any_name.safetensors"}, GIVEN | {"test_fps": 1.5},
                   GIVEN | {"linking": "hand-craft"})

    (project / "models" / "y").mkdir()
    (project / "models" / "y" / "any_name.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (project / "models" / "y" / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    own, elsewhere, *others = [row.evaluations[0] for row in loaded(project)[1].rows]
    assert own.key == elsewhere.key, "neither the place nor the file's name matters"
    assert len({own.key, *(spec.key for spec in others)}) == 3
    assert [spec.inference.test_fps for spec in others] == [1.5, None]
    unlike = ["model.iterations=1", "train.epochs=7", "input_size=[64, 64]", "inference.presence_threshold=0.3", "seeds=5"]
    assert loaded(project, *unlike)[1].rows[0].evaluations[0].key == own.key
    for changes in ({"sha256": "0" * 64}, {"input_size": [64, 96]}, {"inference": {"presence_threshold": 0.2}}):
        before = (folder / "config.yaml").read_text()
        edit(folder, **changes)
        assert loaded(project)[1].rows[0].evaluations[0].key != own.key, changes
        (folder / "config.yaml").write_text(before)
    edit(folder, provenance={"metrics": {"AP": 0.5}})
    (folder / "weights.safetensors").unlink()
    assert loaded(project)[1].rows[0].evaluations[0].key == own.key, "the description is enough for a key"
    assert replace(own.train, dataset_digest="other").key != own.train.key


@pytest.mark.parametrize(("more", "key"), [
    ({"T": 9}, "T"), ({"cl": True}, "cl"), ({"attention": "joint"}, "attention"), ({"backbone": "R50"}, "backbone"),
    ({"method": "vistr"}, "method"), ({"augmentation": "none"}, "augmentation"),
    ({"params": {"train.epochs": 3}}, "params.train.epochs"),
    ({"params": {"inference.presence_threshold": 0.1}}, "params.inference.presence_threshold")])
def test_settings_that_have_no_bearing_on_given_weights_are_refused(tiny_project, more, key):
    project = tiny_project()
    put_model(project)
    file = write_table_of(project, {"T": 9}, GIVEN | more)
    with pytest.raises(UserError) as error:
        loaded(project)
    assert str(error.value).startswith(f"{file}: rows.1.set.{key}: 'row 1' evaluates weights")
    assert "Remove it, or the weights" in str(error.value) and "may set dataset, linking, test_fps" in str(error.value)


def test_what_is_wrong_with_weights_is_named(tiny_project):
    project = tiny_project()
    file = write_table_of(project, GIVEN)

    def refused():
        with pytest.raises(UserError) as error:
            loaded(project)
        return str(error.value)

    assert f"{file}: rows.0.set.weights: '{ROW}': there is no folder {project / 'models/x'}" in refused()
    folder = put_model(project, "vistr")
    names = [label["name"] for label in yaml.safe_load((folder / "config.yaml").read_text())["labels"]]
    edit(folder, labels=[{"id": number, "name": name} for number, name in enumerate(["zebra", *names[1:]])])
    assert f"{folder}: labels: " in refused() and f"it lacks {names[0]}; only it has zebra" in refused()
    edit(folder, labels=[{"id": number, "name": name} for number, name in enumerate(names)])
    write_table_of(project, GIVEN | {"linking": "end-to-end"})
    assert f"{file}: rows.0.set.linking: '{ROW}': VisTR has no end-to-end linking. Give hand-craft" in refused()
    write_table_of(project, GIVEN)
    (folder / "config.yaml").unlink()
    assert f"{folder / 'config.yaml'}: (file): cannot be read" in refused()
    write_table_of(project, {"weights": "models/x/weights.safetensors"})
    assert f"{folder / 'config.yaml'}: (file): is missing" in refused()
    write_table_of(project, GIVEN, {"T": 9}, curves=True, convergence={"slower": ROW, "faster": "row 1"})
    assert "has no learning curve, because its weights are given" in refused()


def test_weights_that_are_elsewhere_or_were_changed_are_refused_before_they_are_evaluated(tiny_project):
    project = tiny_project()
    weights = put_model(project) / "weights.safetensors"
    write_table_of(project, GIVEN)
    spec = loaded(project)[1].rows[0].evaluations[0].train
    check_weights(spec)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"sha256: these are not the weights .* when the evaluation was planned"):
        check_weights(spec)
    weights.unlink()
    with pytest.raises(UserError, match=r"weights.safetensors: \(file\): is not there"):
        check_weights(spec)


def test_converted_weights_of_other_classes_than_their_labels_are_refused_before_they_are_evaluated(tiny_project):
    project = tiny_project()
    folder = put_model(project)
    weights = folder / "weights.safetensors"
    names = [label["name"] for label in yaml.safe_load((folder / "config.yaml").read_text())["labels"]]
    write_table_of(project, GIVEN)
    refused = pytest.raises(UserError, match="labels: are not the classes")
    for classes, outcome in ((names, nullcontext()), (names[::-1], refused)):
        conversion = Conversion("test", network().config, load_file(weights), [], by_name=dict.fromkeys(classes))
        save_file(conversion.weights, weights, metadata=starts.metadata(conversion))
        edit(folder, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
        with outcome:
            check_weights(loaded(project)[1].rows[0].evaluations[0].train)


def test_it_is_no_training_and_no_headline(tiny_project):
    project = tiny_project()
    put_model(project)
    write_table_of(project, GIVEN)
    params, _ = loaded(project)
    with pytest.raises(UserError, match=r"is not trained here: its weights are given \(models/x\)"):
        find_row(params, f"{TABLE}:{ROW}")
    write_params(project, headline=GIVEN)
    with pytest.raises(UserError, match="headline: .*the headline run is trained here"):
        loaded(project)
