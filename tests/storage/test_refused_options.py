"""Options that obstore does not know, or cannot use: the start says which."""

from typing import Any

import pytest

from serve.errors import ConfigurationError
from serve.storage import ObjectStore
from tests.storage.conftest import bucket_settings


def refusal(**keys: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        ObjectStore(bucket_settings("https://s3.example.com", **keys))
    said = str(refused.value)
    assert "\n" not in said
    assert "test/secret+key" not in said
    return said


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"options": {"regoin": "x"}}, "Configuration key: 'regoin' is not valid for store 'S3'"),
        ({"options": {"virtual_hosted_style_request": "perhaps"}}, "perhaps"),
        ({"options": {"aws_endpoint": "https://other"}}, "Duplicate key aws_endpoint"),
        ({"client_options": {"allow_htpp": True}}, "allow_htpp"),
        ({"client_options": {"timeout": "5 parsecs"}}, "5 parsecs"),
        (
            {"public_endpoint": "http://images.example.com", "client_options": {}},
            "storage.public_endpoint http://images",
        ),
    ],
)
def test_an_option_that_is_wrong_is_named_in_one_sentence(keys: dict[str, Any], told: str):
    assert told in refusal(**keys)
