"""Workers, threads, services and a cache do not change the images or their order."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import SAMPLE, TINY

from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.recipes import make_config

SMALL = TINY._replace(resolution=16)


def rows(examples, count):
    images, labels = next(examples.batch(count).as_numpy_iterator())
    return images, labels


@pytest.fixture(scope="module")
def alone():
    """Five batches of 12 of one worker, from example 1440 on, two before the end of the first epoch."""
    data = make_datasets(make_config(train_batch_size=12), SMALL)
    return data, rows(data.train(1440), 60)


@pytest.mark.parametrize("count", [2, 3])
def test_workers_share_the_batches_of_one_worker(alone, count):
    data, (images, labels) = alone
    parts = [rows(data.train(1440, index, count), 60 // count) for index in range(count)]
    for index, expected in enumerate((images, labels)):
        together = np.concatenate([part[index].reshape(5, 12 // count, -1) for part in parts], axis=1)
        np.testing.assert_array_equal(together, expected.reshape(5, 12, -1))


def test_batch_must_be_a_multiple_of_the_workers(alone):
    with pytest.raises(ValueError, match="`train_batch_size` must be a multiple of the 5 readers. Received: 12"):
        alone[0].train(0, 0, 5)


def test_workers_evaluate_each_image_once(alone):
    data = alone[0]
    expected = sorted(image.tobytes() for image, _ in data.valid.as_numpy_iterator())
    shards = [[image.tobytes() for image, _ in data.valid_shard(index, 2).as_numpy_iterator()] for index in range(2)]
    assert [len(shard) for shard in shards] == [178, 177]
    assert sorted(shards[0] + shards[1]) == expected


@pytest.mark.parametrize("threads", [1, 7])
def test_number_of_threads_changes_nothing(alone, threads):
    data, (images, labels) = alone
    limits = tf.data.Options()
    limits.threading.private_threadpool_size = threads
    again = rows(data.train(1440).with_options(limits), 60)
    np.testing.assert_array_equal(again[0], images)
    np.testing.assert_array_equal(again[1], labels)


@pytest.mark.parametrize("count", [1, 2])
def test_services_share_the_batches_of_one_worker(alone, count):
    _, (images, labels) = alone
    service = tf.data.experimental.service
    dispatchers = [service.DispatchServer() for _ in range(count)]
    workers = [
        service.WorkerServer(service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1]))
        for dispatcher in dispatchers
    ]
    addresses = ",".join(dispatcher.target for dispatcher in dispatchers)
    data = make_datasets(make_config(train_batch_size=12, tf_data_service=addresses), SMALL)
    served = rows(data.train(1440), 60)
    assert len(workers) == count
    np.testing.assert_array_equal(served[0], images)
    np.testing.assert_array_equal(served[1], labels)


def test_cached_records_are_read_only_once(tmp_path):
    files = [tmp_path / path.name for path in SAMPLE.iterdir()]
    for path in files:
        path.write_bytes((SAMPLE / path.name).read_bytes())
    config = make_config(data_dir=str(tmp_path), recipe="sample", use_cache=True, mode="train", augment_name=None)
    data = make_datasets(config, SMALL)
    examples = data.train(0).batch(data.train_images).as_numpy_iterator()
    first = next(examples)
    for path in files:
        path.write_bytes(b"")  # another read would find no records
    second = next(examples)
    assert len({image.tobytes() for image in first[0]}) == 1442
    assert sorted(image.tobytes() for image in first[0]) == sorted(image.tobytes() for image in second[0])
    assert not np.array_equal(first[0], second[0])
