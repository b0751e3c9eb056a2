"""A small store in which maps between the encoders exist, and what the commands say to bad input."""

import numpy as np

from jaxalign.data import EmbeddingStore

PEOPLE, PER_PERSON = 30, 4


def planted(people=PEOPLE, per_person=PER_PERSON, noise=0.05):
    """Three encoders of widths 12, 12 and 16: noisy rotations of the same vectors, so that a map exists."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(people, 12)), per_person, axis=0)
    photographs = centres + 0.2 * rng.normal(size=centres.shape)
    embeddings = {}
    for name, width in (("alpha", 12), ("beta", 12), ("gamma", 16)):
        basis = np.linalg.qr(rng.normal(size=(width, 12)))[0].T
        rows = photographs @ basis + 0.1
        embeddings[name] = (rows + noise * rng.normal(size=rows.shape)).astype(np.float32)
    identities = np.repeat([f"person_{k:03d}" for k in range(people)], per_person)
    return embeddings, identities


def make_store(path, embeddings=None, identities=None):
    given, people = planted()
    EmbeddingStore.create(
        path,
        given if embeddings is None else embeddings,
        people if identities is None else identities,
        dataset="planted",
    )
    return path


def refused_with(done):
    """The one sentence of a refusal: exit status 2, no traceback, nothing on standard output."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0]
