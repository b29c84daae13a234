# SPDX-License-Identifier: Apache-2.0
"""Embeddings of texts, and k-means on them, with scikit-learn and sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


TFIDF = "tfidf"
MOST_WORDS = 20_000  # of the TF-IDF vocabulary
TOKEN = r"\w+|[^\w\s]"  # digits and signs of mathematics are words as well


def check_packages(embeddings: str) -> None:
    """
    Check that the packages for clustering are installed.

    Raises:
        `ImportError`: If one is missing.
    """
    try:
        import sklearn  # noqa: F401

        if embeddings != TFIDF:
            import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Clustering needs the package {error.name}, which is not installed: pip install 'trl-concise[selection]'."
        ) from error


def cluster(texts: Sequence[str], clusters: int, *, embeddings: str = TFIDF, seed: int = 0) -> list[int]:
    """
    Cluster texts by k-means on unit embeddings.

    Args:
        texts (`Sequence[str]`): The texts, none empty.
        clusters (`int`): Largest number of clusters; there are at most as many as different texts.
        embeddings (`str`, *optional*, defaults to `"tfidf"`): `"tfidf"`, or the name or folder of a sentence-transformers model.
        seed (`int`, *optional*, defaults to `0`): Seed of k-means.

    Returns:
        `list[int]`: The cluster of each text, numbered from 0 in order of first appearance.

    Raises:
        `ImportError`: If a package is missing.
        `ValueError`: If `clusters` is below 1.
    """
    if clusters < 1:
        raise ValueError(f"clusters must be at least 1, got {clusters}.")
    distinct = list(dict.fromkeys(texts))
    count = min(clusters, len(distinct))
    if count <= 1:
        return [0] * len(texts)
    check_packages(embeddings)

    from sklearn.cluster import KMeans

    labels = KMeans(count, n_init=1, random_state=seed).fit_predict(embed(distinct, embeddings))
    numbers: dict[int, int] = {}
    for label in labels.tolist():
        numbers.setdefault(label, len(numbers))
    of_text = {text: numbers[label] for text, label in zip(distinct, labels.tolist(), strict=True)}
    return [of_text[text] for text in texts]


def embed(texts: Sequence[str], embeddings: str = TFIDF) -> Any:
    """
    Unit embeddings of texts, one row each: a sparse matrix with TF-IDF, an array with a model.

    Raises:
        `ValueError`: If the model cannot be loaded.
    """
    if embeddings == TFIDF:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(token_pattern=TOKEN, max_features=MOST_WORDS, sublinear_tf=True).fit_transform(texts)
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(embeddings, local_files_only=bool(os.environ.get("HF_HUB_OFFLINE")))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The embedding model {embeddings!r} cannot be loaded: {str(error).rstrip('.')}. Name a sentence-transformers model or its folder, "
            f"or use {TFIDF!r}, which needs no model."
        ) from error
    return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
