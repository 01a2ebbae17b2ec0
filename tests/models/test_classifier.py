from pathlib import Path

import pytest
import torch

from models import classifier, metrics, mnist
from worker.settings import Settings

DATA = Settings().data_dir


def test_the_shipped_classifier_reads_the_test_images() -> None:
    images, labels = mnist.load(DATA, mnist.TEST_IMAGES), mnist.load_labels(DATA, mnist.TEST_LABELS)
    found = classifier.accuracy(classifier.load(), images, labels)
    assert found >= 0.994
    assert found == pytest.approx(classifier.facts().test_accuracy, abs=2e-4)  # another CPU may round one over
    assert classifier.CLASSIFIER.stat().st_size < 2_000_000


def test_its_floors_are_those_of_its_features() -> None:
    real = metrics.Real.of(mnist.load(DATA, mnist.TEST_IMAGES), classifier.load())
    found = metrics.measure(metrics.sample(mnist.load(DATA), metrics.IMAGES), real)
    assert found == pytest.approx(classifier.facts().floors, rel=1e-2)


def test_training_learns_is_repeatable_and_survives_saving(tmp_path: Path) -> None:
    images, labels = mnist.load(DATA)[:2_000], mnist.load_labels(DATA)[:2_000]
    told: list[tuple[int, int]] = []
    trained, again = (
        classifier.train(
            classifier.Classifier, images, labels, epochs=2, seed=5, on_progress=lambda *step: told.append(step)
        )
        for _ in range(2)
    )
    assert told == [(step, 40) for step in range(1, 41)] * 2
    assert all(weight.equal(again.state_dict()[name]) for name, weight in trained.state_dict().items())
    fresh = mnist.load(DATA)[-2_000:], mnist.load_labels(DATA)[-2_000:]
    assert classifier.accuracy(trained, *fresh) > 0.8

    path = tmp_path / "classifier.safetensors"
    classifier.save(trained, classifier.facts(), path)
    saved = classifier.load(path)
    for first, second in zip(
        classifier.classify(trained, images[:9]), classifier.classify(saved, images[:9]), strict=True
    ):
        assert first.equal(second)
    assert classifier.facts(path) == classifier.facts()
    assert classifier.sha256(path) != classifier.sha256()


def test_features_and_probabilities_have_the_promised_shapes() -> None:
    features, probabilities = classifier.classify(classifier.load(), torch.zeros(250, 28, 28, dtype=torch.uint8))
    assert features.shape == (250, classifier.FEATURES)
    assert features.min() >= 0
    assert probabilities.sum(dim=1).allclose(torch.ones(250))
