"""The benchmark that undoes points of the method: each patch gives what was computed before, and nothing else is changed.

"Before" is written down here in loops over tracklets, instances, frames and locations, in double precision.
"""

import importlib
import json
import math
import shutil
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import equations
from support.builders import pair_batch, rectangles, tiny_model

from benchmarks.undone import point2, points, starting_queries
from benchmarks.undone.replacing import replaced
from effvis.config import InferenceConfig, LossWeights, MatchingConfig
from effvis.data.targets import ClipPairBatch, ClipTargets, stack_targets
from effvis.errors import UserError
from effvis.inference import end_to_end
from effvis.model.dynamic_conv import DynamicConv, TemporalDynamicConv
from effvis.model.efficientvis import EfficientVIS
from effvis.training import correspondence
from pipeline.grid.choice_file import LinkingChoice, file_of, keep
from pipeline.grid.linking import reported
from pipeline.settings.loading import load_params

WEIGHTS = LossWeights(focal=2, l1=5, giou=2, dice=8, bce=3)
NAMES = ("focal", "l1", "giou", "dice", "bce")
# What each patch puts something else in the place of.
REPLACED = {1: {"TemporalDynamicConv.forward"}, 2: {"correspondence.clip_costs"}, 3: {"correspondence.interaction_losses"},
            4: {"EfficientVIS.forward", "end_to_end.track"},
            5: {"EfficientVIS.__init__", "EfficientVIS.load_initial", "EfficientVIS.forward", "end_to_end.track"},
            8: {"ClipTargets.real", "correspondence.pair_losses"}}


def everything():
    """Whatever stands at every name of effvis's modules and of their classes."""
    found = {}
    for name, module in sys.modules.items():
        if name == "effvis" or name.startswith("effvis."):
            for key, value in vars(module).items():
                found[f"{name}.{key}"] = value
                if isinstance(value, type) and value.__module__ == name:
                    found |= {f"{name}.{key}.{inner}": of_class for inner, of_class in vars(value).items()}
    return found


@pytest.mark.parametrize("number", points.PATCHES)
def test_a_patch_replaces_what_it_says_and_is_gone_afterwards(number):
    before = everything()
    with pytest.raises(ZeroDivisionError), points.PATCHES[number]():
        within = everything()
        raise ZeroDivisionError
    changed = {".".join(name.rsplit(".", 2)[-2:]) for name in before if within[name] is not before[name]}
    assert changed == REPLACED[number]
    after = everything()
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)


def test_a_name_that_is_not_there_cannot_be_replaced():
    with pytest.raises(AttributeError), replaced(EfficientVIS, "forwards", None):
        pass


@torch.no_grad()
@pytest.mark.parametrize("cropped_by", ["own", "here"])
def test_point_1_filters_an_average_of_regions(cropped_by):
    torch.manual_seed(0)
    conv = TemporalDynamicConv(8, 4, temperature=0.3).double()
    query, regions = torch.randn(2, 2, 4, 8, dtype=torch.float64), torch.randn(2, 2, 4, 3, 5, 8, dtype=torch.float64)
    given = regions[:, :, :, 1] if cropped_by == "own" else regions

    def region(b, n, t, u):
        return given[b, n, u] if cropped_by == "own" else given[b, n, t, u - t + 1]

    def convolve(query_C, region_PC):
        query, region = torch.as_tensor(query_C), torch.as_tensor(region_PC)
        return DynamicConv.forward(conv, query[None, None, None], region[None, None, None])[0, 0, 0].numpy()

    def before(b, n, t):
        average = torch.zeros(5, 8, dtype=torch.float64)
        for p in range(5):
            neighbours = [region(b, n, t, u)[p].numpy() for u in (t - 1, t, t + 1) if 0 <= u < 4]
            weights = [math.exp(equations.cosine(region(b, n, t, t)[p].numpy(), x) / 0.3) for x in neighbours]
            average[p] = torch.from_numpy(sum(w * x for w, x in zip(weights, neighbours, strict=True)) / sum(weights))
        return convolve(query[b, n, t], average)

    with points.PATCHES[1]():
        found = conv(query, given)
    for b, n in np.ndindex(2, 2):
        np.testing.assert_allclose(found[b, n], np.stack([before(b, n, t) for t in range(4)]), atol=1e-9)
        paper = equations.tracklet_feature(
            convolve, query[b, n].numpy(), lambda t, u, b=b, n=n: region(b, n, t, u).numpy(), temperature=0.3)
        assert np.abs(paper - found[b, n].numpy()).max() > 0.1
        np.testing.assert_allclose(conv(query, given)[b, n], paper, atol=1e-9)


def _giou(a, b):
    def area(x0, y0, x1, y1):
        return max(x1 - x0, 0) * max(y1 - y0, 0)

    both = area(*(max(a[i], b[i]) for i in (0, 1)), *(min(a[i], b[i]) for i in (2, 3)))
    hull = area(*(min(a[i], b[i]) for i in (0, 1)), *(max(a[i], b[i]) for i in (2, 3)))
    union = area(*a) + area(*b) - both
    return both / union - (hull - union) / hull


@torch.no_grad()
def test_point_2_compares_classes_by_the_focal_cost_and_no_masks():
    model = tiny_model(3, seed=3).double()
    clip = pair_batch([([0, 1, 2], [3])], 3, absent=True).targets[0][0]
    clip = replace(clip, real_T=torch.tensor([True, True, False]))
    features = model.features(torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8))
    outputs = model(features)
    logits, boxes = (torch.stack([getattr(output, name) for output in outputs]) for name in ("logits_BNTK", "boxes_BNT4"))
    targets = stack_targets([clip])

    def focal(logit, is_class):
        p = 1 / (1 + math.exp(-logit))
        return -0.25 * (1 - p) ** 2 * math.log(p) if is_class else -0.75 * p**2 * math.log(1 - p)

    def absent(m, n, k, t):
        return 2 * focal(logits[m, 0, n, t, clip.labels_K[k]], False) if t < 2 else 0.0

    def seen(m, n, k, t):
        box, true = boxes[m, 0, n, t].tolist(), clip.boxes_KT4[k, t].tolist()
        l1 = sum(abs(a - b) / side for a, b, side in zip(box, true, (48, 32, 48, 32), strict=True))
        kind = focal(logits[m, 0, n, t, clip.labels_K[k]], True) - focal(logits[m, 0, n, t, clip.labels_K[k]], False)
        return 2 * kind + 5 * l1 - 2 * _giou(box, true) if t < 2 else 0.0

    found = point2.cost(logits, boxes, targets, features.size_B4, MatchingConfig())
    for m in range(2):
        before = equations.matching_cost(clip.present_KT.numpy(), 4, partial(seen, m), partial(absent, m))
        np.testing.assert_allclose(found[m, 0], before, atol=1e-9)
    given = model, features, outputs, targets, MatchingConfig()
    with points.PATCHES[2]():
        np.testing.assert_allclose(correspondence.clip_costs(*given), found, atol=1e-4)
    assert np.abs(correspondence.clip_costs(*given) - found.numpy()).max() > 1


def _whole_frame(present_KT, seed=0):
    """A clip whose instances fill the frames that show them, and its frames."""
    present = torch.tensor(present_KT)
    full = torch.tensor([0.0, 0, 48, 32]) * present[..., None]
    masks = present[..., None, None].expand(*present.shape, 32, 48)
    frames = torch.randint(0, 255, (present.shape[1], 3, 32, 48), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(seed))
    tracks = torch.arange(len(present))
    return frames, ClipTargets(tracks, tracks % 3, present, full, masks.contiguous())


def _single(frames, clip):
    return ClipPairBatch((frames[None],), ([clip],), [0])


@torch.no_grad()
def test_point_3_leaves_the_mask_alone_where_the_instance_is_absent():
    model = tiny_model(3, queries=1).double()
    frames, clip = _whole_frame([[True, False, True]])
    features = model.features(frames[None])
    present, absent = 0.0, 0.0
    for output in model(features):
        logits_TSS = model.mask_logits(features, output)[0, 0]
        present += sum(F.softplus(-logits_TSS[t]).mean().item() for t in (0, 2))
        absent += F.softplus(logits_TSS[1]).mean().item()
    whole = correspondence.pair_losses(model, _single(frames, clip), WEIGHTS, False)
    with points.PATCHES[3]():
        found = correspondence.pair_losses(model, _single(frames, clip), WEIGHTS, False)
    assert found["bce"].item() == pytest.approx(3 * present / 3, rel=1e-9)
    assert whole["bce"].item() == pytest.approx(3 * (present + absent) / 3, rel=1e-9)
    assert all(torch.equal(found[name], whole[name]) for name in NAMES if name != "bce")


def _starts(model, run):
    """What the first interaction is given, each time that ``run`` calls the network: (B, N, T, C)."""
    seen = []
    hook = model.interactions[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    try:
        run()
    finally:
        hook.remove()
    return seen


def _video(clips, frames=2):
    generator = torch.Generator().manual_seed(1)
    return [(list(range(c * frames, (c + 1) * frames)),
             torch.randint(0, 255, (frames, 3, 32, 48), dtype=torch.uint8, generator=generator)) for c in range(clips)]


@torch.no_grad()
def test_point_4_starts_from_embeddings_as_they_are():
    model = tiny_model(2, seed=1).double()
    batch = pair_batch([([0, 1], [1, 2])], 2)
    features = model.features(batch.frames[0])
    query = torch.randn(1, 4, 2, 16, dtype=torch.float64)
    alike = query[:, :, :1].expand(-1, -1, 2, -1)
    paper = [model(features, given)[-1] for given in (None, alike)]
    with points.PATCHES[4]():
        assert torch.equal(_starts(model, lambda: model(features, query))[0], query)
        swapped = model(features, query.flip(2))[-1].logits_BNTK
        assert (swapped - model(features, query)[-1].logits_BNTK).abs().max() > 1e-3
        for given, expected in zip((None, alike), paper, strict=True):
            torch.testing.assert_close(model(features, given)[-1].logits_BNTK, expected.logits_BNTK, atol=1e-12, rtol=0)
        first = model(features)[-1].query_BNTC
        in_training = _starts(model, lambda: correspondence.pair_losses(model, batch, WEIGHTS, True))
        assert torch.equal(in_training[1], first) and not torch.equal(first[:, :, 0], first[:, :, 1])
        clips, config = _video(2), InferenceConfig(presence_threshold=0.0)
        out = model(model.features(clips[0][1][None]))[-1].query_BNTC
        followed = _starts(model, lambda: end_to_end.track(model, clips, (32, 48), config))
        torch.testing.assert_close(followed[1], out, atol=1e-12, rtol=0)
    assert torch.equal(_starts(model, lambda: model(features, query))[0], query.mean(2, True).expand_as(query))


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["always there", "now and then", "never"])
def test_a_video_is_followed_as_by_the_product_but_for_the_query_between_clips(share):
    """The network itself averages what it is given, so that handing all embeddings on makes no difference to it."""
    model = tiny_model(2, seed=1).double()
    model.interactions[-1].class_logits.weight.normal_()
    clips = _video(4)
    best = torch.stack([model(model.features(frames[None]))[-1].logits_BNTK.sigmoid().amax((0, 2, 3)) for _, frames in clips])
    config = InferenceConfig(presence_threshold=best.quantile(share).item() if share < 1 else 1.0, reinit_after=1)
    found = {}
    for track in (starting_queries.track, end_to_end.track):
        starts = _starts(model, lambda track=track: found.update({track: track(model, clips, (32, 48), config)}))
        found[track] = found[track], torch.stack(starts)
    (ours, our_starts), (theirs, their_starts) = found.values()
    begun_anew = (their_starts[1:] == model.query_NTC).all(-1).all(-1)
    assert begun_anew.any() == (share > 0) and begun_anew.all() == (share == 1)
    torch.testing.assert_close(our_starts, their_starts, atol=1e-12, rtol=0)
    assert [one.rles for one in ours] == [one.rles for one in theirs]


def test_point_5_learns_an_embedding_and_a_proposal_for_each_frame():
    shared = tiny_model(2, seed=1).double()
    batch = pair_batch([([0, 1], [1, 2])], 2)
    with points.PATCHES[5]():
        model = tiny_model(2, seed=5).double()
        assert model.load_initial(shared.state_dict()) == []
        assert model.query_NTC.shape == (4, 2, 16) and model.proposal_NT4.shape == (4, 2, 4)
        sum(correspondence.pair_losses(model, batch, WEIGHTS, True).values()).backward()
        for name in ("query_NTC", "proposal_NT4"):
            grad = getattr(model, name).grad
            assert (grad[:, 0] - grad[:, 1]).abs().max() > 0
        found = correspondence.pair_losses(model, batch, WEIGHTS, True)
    sum(correspondence.pair_losses(shared, batch, WEIGHTS, True).values()).backward()
    expected = correspondence.pair_losses(shared, batch, WEIGHTS, True)
    for name in NAMES:  # all embeddings are still alike
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-9)
    torch.testing.assert_close(model.query_NTC.grad.sum(1, True), shared.query_NTC.grad, atol=1e-9, rtol=1e-6)


@torch.no_grad()
def test_point_5_still_averages_between_clips_and_begins_anew_with_all_embeddings():
    with points.PATCHES[5]():
        model = tiny_model(2, seed=1).double()
        model.query_NTC.normal_()
        model.proposal_NT4[:, 1] *= 0.5
        features = model.features(_video(1)[0][1][None])
        out = model(features)[-1].query_BNTC
        assert torch.equal(_starts(model, lambda: model(features))[0][0], model.query_NTC)
        assert torch.equal(_starts(model, lambda: model(features, out))[0], out.mean(2, True).expand_as(out))
        clips = _video(2)
        there, gone = (
            _starts(model, partial(end_to_end.track, model, clips, (32, 48),
                                   InferenceConfig(presence_threshold=presence, reinit_after=1))) for presence in (0.0, 1.0))
        out = model(model.features(clips[0][1][None]))[-1].query_BNTC
        torch.testing.assert_close(there[1], out.mean(2, True).expand_as(out), atol=1e-12, rtol=0)
        assert torch.equal(there[0][0], model.query_NTC) and torch.equal(gone[1][0], model.query_NTC)


@torch.no_grad()
def test_point_8_divides_each_group_by_what_it_shows_and_averages_the_groups():
    model = tiny_model(3, queries=3).double()
    batch = pair_batch([([0, 1], [1, 2]), ([3], [3])], 3, absent=True)
    visible = [sum(int(clip.present_KT.sum()) for clip in clips) for clips in batch.targets]
    assert visible == [5 + 2, 5 + 2]
    batch.targets[1][0].present_KT[1, 2] = False
    visible[1] -= 1
    counts = batch.counts()
    first = ClipPairBatch(batch.frames[:1], batch.targets[:1], batch.videos)
    of_first = correspondence.pair_losses(model, first, WEIGHTS, False)
    of_both = {learned: correspondence.pair_losses(model, batch, WEIGHTS, learned) for learned in (True, False)}
    with points.PATCHES[8]():
        found = {learned: correspondence.pair_losses(model, batch, WEIGHTS, learned) for learned in (True, False)}
    for name in NAMES:
        sum_first = of_first[name] * first.counts().entries
        sum_second = of_both[True][name] * (counts.entries + counts.gone) - sum_first
        before = (sum_first / visible[0] + sum_second / visible[1]) / 2
        assert found[True][name].item() == pytest.approx(before.item(), rel=1e-9)
        together = of_both[False][name] * counts.entries / sum(visible)
        assert found[False][name].item() == pytest.approx(together.item(), rel=1e-9)
        assert found[True][name].item() != pytest.approx(of_both[True][name].item(), rel=1e-2)


@torch.no_grad()
def test_point_8_counts_instances_only_if_they_were_matched():
    model = tiny_model(3, queries=1).double()
    frames, clip = _whole_frame([[True] * 3, [True] * 3])
    whole = correspondence.pair_losses(model, _single(frames, clip), WEIGHTS, False)
    with points.PATCHES[8]():
        found = correspondence.pair_losses(model, _single(frames, clip), WEIGHTS, False)
    for name in NAMES:
        assert found[name].item() == pytest.approx(2 * whole[name].item(), rel=1e-9)


@torch.no_grad()
def test_point_8_takes_copies_for_frames():
    model = tiny_model(3, queries=2).double()
    frames, clip = rectangles([0, 1], 3, np.random.default_rng(0))
    copied = replace(clip, real_T=torch.tensor([True, True, False]))
    paper = [correspondence.pair_losses(model, _single(frames, one), WEIGHTS, False) for one in (clip, copied)]
    with points.PATCHES[8]():
        before = [correspondence.pair_losses(model, _single(frames, one), WEIGHTS, False) for one in (clip, copied)]
    assert before[0] == before[1] and paper[0] != paper[1]


@pytest.fixture
def benchmark():
    return importlib.import_module("benchmarks.undone.__main__")


def test_a_number_that_is_no_point_is_refused(benchmark, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main(["--point", "9", "--out", "undone.json"])
    assert end.value.code == 2
    assert "argument --point: invalid choice: 9 (choose from 1, 2, 3, 4, 5, 6, 7, 8)" in capsys.readouterr().err


@pytest.mark.slow
def test_every_point_is_trained_scored_and_not_done_twice(benchmark, tiny_project, capsys):
    project = tiny_project()
    params = load_params(project / "params.yaml")
    keep(params, LinkingChoice(method="efficientvis", T=9, dataset="", reported=reported(params), handcraft={"mask_iou": 2.0},
                               command="", run="0" * 16, held_out=3, AP=0.5, AP_of_defaults=0.25))
    out = project / "undone.json"
    common = ["--params", str(project / "params.yaml"), "--out", str(out), "--steps", "2", "--every", "1",
              "-S", "pretrain.source=none", "-S", "inference.presence_threshold=0"]
    assert benchmark.main([*common, "--point", "3"]) == 0
    first = json.loads(out.read_text())["points"]
    assert set(first) == {"unpatched", "3"} and first["3"]["training"]["steps"] == 2
    assert "point 3: step 2 of 3" in capsys.readouterr().out

    assert benchmark.main([*common, "--all"]) == 0
    shown = capsys.readouterr().out
    assert "unpatched: step" not in shown and "point 3: step" not in shown and "point 8: step 2" in shown
    done = json.loads(out.read_text())["points"]
    assert done["3"] == first["3"] and set(done) == {"unpatched", *map(str, points.WHAT)}
    rows = [line for line in shown.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| –", *(f"| {n}" for n in (1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 8))]
    assert all(what in shown for what in points.WHAT.values())

    assert benchmark.main([*common, "--all"]) == 0
    assert json.loads(out.read_text())["points"] == done and "step" not in capsys.readouterr().out
    data = project / "data" / "shapes-vis"
    shutil.copytree(data / "val", data / "other")
    assert benchmark.main([*common, "--point", "3", "--split", "other"]) == 0
    other = json.loads(out.read_text())["points"]["3"]["scores"]
    assert other["other"]["lines"] == other["val"]["lines"] and "step" not in capsys.readouterr().out
    for argument, value, said in (
            ("--split", "test", "--split: there are no annotations"), ("--seed", "1", "settings.seed: is 0"),
            ("--out", "undone", "does not end in .json"), ("--row", "table1d:T=18 VisTR", "is of VisTR")):
        with pytest.raises(UserError, match=said):
            benchmark.main([*common, "--point", "3", argument, value])
    file_of(params).unlink()
    with pytest.raises(UserError, match="none was made for T=9"):
        benchmark.main([*common, "--point", "6", "--split", "other"])
