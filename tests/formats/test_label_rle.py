# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.formats.coco_rle import decode_mask, encode_mask
from pc3dcli.formats.label_rle import encode_labels


@pytest.mark.parametrize("seed", range(5))
def test_each_label_is_encoded_as_its_mask_would_be(seed):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 6, (7, 9)), np.ones((3, 2))).astype(np.int32) * 1000
    labels[-1, -1] = labels[0, 0] = 5000
    encoded = encode_labels(labels)
    assert list(encoded) == sorted(set(labels.reshape(-1).tolist()) - {0})
    for label, rle in encoded.items():
        assert rle == encode_mask(labels == label)
        assert (decode_mask(rle) == (labels == label)).all()


def test_empty_and_full_images():
    assert encode_labels(np.zeros((4, 5), np.int32)) == {}
    assert encode_labels(np.zeros((0, 5), np.int32)) == {}
    full = np.full((4, 5), 3, np.int32)
    assert encode_labels(full) == {3: encode_mask(full == 3)}
