"""The tracking head and memory of MaskTrack R-CNN, against the equations of its paper (Yang, Fan, Xu, ICCV 2019) and the
loop of its authors' code, written out one object at a time."""

import math

import pytest
import torch

from effvis.tracking.config import CueWeights
from effvis.tracking.head import TrackingHead, identity_logits, identity_targets, tracking_loss
from effvis.tracking.memory import Memory, Objects, best_entries, match_scores


def random_objects(count, seed, classes=3, width=4):
    draw = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(count, 2, generator=draw) * 20, torch.rand(count, 2, generator=draw) * 20 + 5
    return Objects(
        torch.randn(count, width, generator=draw), torch.cat((corner, corner + size), dim=1),
        torch.rand(count, generator=draw) * 0.9 + 0.1, torch.randint(classes, (count,), generator=draw))


def probabilities(candidate, known):
    """p_i(n) for n = 0 (new) to N, from the embeddings f_i and f_n."""
    powers = [math.exp(sum(float(a) * float(b) for a, b in zip(candidate, one, strict=True))) for one in known]
    return [share / (1 + sum(powers)) for share in (1, *powers)]


def box_iou(a, b):
    width, height = (max(0.0, min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis])) for axis in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def values_of(seen, known, i, alpha, beta, gamma):
    """v_i(n) for n = 0 to N; a new object has IoU 0, and counts as of the same class in the authors' code."""
    values = []
    for n, p in enumerate(probabilities(seen.embedding_ND[i], known.embedding_ND)):
        overlap = box_iou(seen.boxes_N4[i].tolist(), known.boxes_N4[n - 1].tolist()) if n else 0
        same = int(seen.labels_N[i] == known.labels_N[n - 1]) if n else 1
        values.append(math.log(p) + alpha * math.log(seen.scores_N[i]) + beta * overlap + gamma * same)
    return values


def test_probabilities_are_a_softmax_with_a_zero_for_a_new_object():
    seen, known = random_objects(5, seed=0), random_objects(3, seed=1)
    found = identity_logits(seen.embedding_ND, known.embedding_ND).softmax(dim=1)
    assert torch.allclose(found, torch.tensor([probabilities(one, known.embedding_ND) for one in seen.embedding_ND]), atol=1e-6)
    assert found.shape == (5, 4)


def test_without_a_known_object_all_are_new():
    nothing = torch.zeros(0, 4)
    assert identity_logits(random_objects(2, seed=0).embedding_ND, nothing).softmax(dim=1).tolist() == [[1], [1]]
    assert identity_targets(torch.tensor([7, 8]), torch.zeros(0, dtype=torch.long)).tolist() == [0, 0]


def test_the_loss_is_the_mean_of_minus_log_p():
    seen, known = random_objects(4, seed=0), random_objects(3, seed=1)
    targets = identity_targets(torch.tensor([12, 99, 11, 13]), torch.tensor([11, 12, 13]))
    assert targets.tolist() == [2, 0, 1, 3]  # 99 is not in the reference frame: new
    expected = -sum(math.log(probabilities(seen.embedding_ND[i], known.embedding_ND)[y]) for i, y in enumerate(targets)) / 4
    assert tracking_loss(identity_logits(seen.embedding_ND, known.embedding_ND), targets).item() == pytest.approx(expected)


def test_a_frame_without_candidates_costs_nothing_and_can_be_differentiated():
    head = TrackingHead(6, width=4)
    logits = identity_logits(head(torch.zeros(0, 2, 3)), head(torch.ones(2, 2, 3)))
    loss = tracking_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and head.first.weight.grad.abs().sum() == 0


@torch.no_grad()
def test_two_layers_with_a_relu_between_them_and_after_both_only_in_the_form_of_mmtracking():
    torch.manual_seed(0)
    features_N = torch.randn(3, 2, 2, 2)
    plain, rectified = TrackingHead(8, width=5), TrackingHead(8, width=5, rectified=True)
    rectified.load_state_dict(plain.state_dict())
    for features, embedding in zip(features_N, plain(features_N), strict=True):
        inner = [max(0.0, float(row @ features.flatten())) for row in plain.first.weight]
        expected = [sum(w * x for w, x in zip(row.tolist(), inner, strict=True)) for row in plain.second.weight]
        assert embedding.tolist() == pytest.approx(expected, abs=1e-6)
    assert (plain(features_N) < 0).any() and torch.equal(rectified(features_N), plain(features_N).clamp(min=0))


@pytest.mark.parametrize("weights", [(1.0, 2.0, 10.0), (0.5, 3.0, 0.0)])
def test_scores_are_the_weighted_sum_of_the_four_cues(weights):
    seen, known = random_objects(5, seed=0), random_objects(4, seed=1)
    found = match_scores(seen, known, CueWeights(score=weights[0], iou=weights[1], category=weights[2]))
    expected = torch.tensor([values_of(seen, known, i, *weights) for i in range(5)])
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_papers_weights_are_the_defaults():
    assert CueWeights() == CueWeights(score=1, iou=2, category=10)


def test_of_several_that_choose_an_object_the_one_with_the_highest_score_has_it():
    scores_NL = torch.tensor([[0.0, 5.0, 1.0], [0.0, 6.0, 9.0], [0.0, 4.0, 7.0], [3.0, 1.0, 2.0], [0.0, 8.0, 1.0]])
    assert best_entries(scores_NL) == [-1, 2, -1, 0, 1]
    assert best_entries(torch.tensor([[0.0, 5.0], [0.0, 5.0]])) == [1, -1]  # equals: the first


def authors_numbers(frames, alpha, beta, gamma):
    """The authors' order of steps: a loop over the detections, which adds to the memory as it goes."""
    memory, numbered = [], []
    for seen in frames:
        before = [list(entry) for entry in memory]
        known = Objects(torch.stack([entry[0] for entry in before]), torch.stack([entry[1] for entry in before]),
                        torch.ones(len(before)), torch.tensor([entry[2] for entry in before])) if before else None
        numbers, best = [-1] * len(seen), {}
        for i in range(len(seen)):
            values = values_of(seen, known, i, alpha, beta, gamma) if before else [0]
            n = max(range(len(values)), key=lambda entry: values[entry])
            if n == 0:
                numbers[i] = len(memory)
                memory.append([seen.embedding_ND[i], seen.boxes_N4[i], int(seen.labels_N[i])])
            elif values[n] > best.get(n, (-100, None))[0]:
                if n in best:
                    numbers[best[n][1]] = -1  # the paper: others are discarded
                best[n] = values[n], i
                numbers[i] = n - 1
                memory[n - 1][:2] = [seen.embedding_ND[i], seen.boxes_N4[i]]
        numbered.append(numbers)
    return numbered


def test_memory_numbers_objects_as_the_authors_loop_does():
    frames = [random_objects(count, seed=count + 10 * f, classes=2) for f, count in enumerate((3, 5, 4, 2, 6, 1, 5))]
    memory = Memory(CueWeights(category=2.0))
    found = [memory.add(seen) for seen in frames]
    assert found == authors_numbers(frames, 1.0, 2.0, 2.0)
    assert len(memory) == 1 + max(map(max, found)) and any(-1 in numbers for numbers in found)


def test_memory_holds_an_object_as_it_was_seen_last_with_its_first_class():
    def at(x, label, embedding):
        return Objects(torch.tensor([embedding]), torch.tensor([[x, 0.0, x + 10, 10.0]]), torch.tensor([0.9]),
                       torch.tensor([label]))

    memory = Memory(CueWeights(category=0.0))
    assert memory.add(at(0.0, 1, [3.0, 0.0])) == [0]
    assert memory.add(at(50.0, 2, [3.0, 0.5])) == [0]  # another class and place; the embedding knows it again
    assert memory._known.labels_N.tolist() == [1]
    assert memory._known.boxes_N4.tolist() == [[50, 0, 60, 10]] and memory._known.embedding_ND.tolist() == [[3, 0.5]]
    assert memory.add(at(50.0, 1, [-3.0, 0.0])) == [1]


def test_memory_outlives_frames_without_detections():
    memory, seen = Memory(CueWeights()), random_objects(2, seed=0)
    nothing = random_objects(0, seed=0)
    assert memory.add(nothing) == [] and len(memory) == 0
    same = Objects(torch.eye(2, 4) * 4, seen.boxes_N4, seen.scores_N, seen.labels_N)
    assert memory.add(same) == [0, 1] and memory.add(nothing) == [] and memory.add(same) == [0, 1]


def test_the_order_of_a_frames_detections_does_not_matter():
    first, second = random_objects(4, seed=3), random_objects(4, seed=4)
    order = torch.tensor([2, 0, 3, 1])
    straight, turned = Memory(CueWeights()), Memory(CueWeights())
    straight.add(first)
    turned.add(first)
    found, other = straight.add(second), turned.add(second.select(order))
    # New objects get numbers from 4 in the order of the detections; all others are the same.
    assert [min(found[n], 4) for n in order] == [min(number, 4) for number in other]
