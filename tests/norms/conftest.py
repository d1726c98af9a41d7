"""One BLAS thread: small matrices gain nothing from more, and busy machines lose much."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def _one_blas_thread() -> Iterator[None]:
    import scipy.linalg  # noqa: F401 (its BLAS must be loaded to be limited)

    with threadpool_limits(1):
        yield
