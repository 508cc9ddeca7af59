"""Unknown names are refused with a suggestion, and odd values are shown cut short."""

import pytest

from processing_egmf.arguments_egmf import refuse_unknown, refuses_unknown_arguments, shorten


def test_unknown_names_are_listed_with_suggestions():
    message = (
        r"Unknown arguments \['audios', 'q'\]; known are audio, text\. Did you mean 'audio' instead of 'audios'\?$"
    )
    with pytest.raises(TypeError, match=message):
        refuse_unknown(["q", "text", "audios"], ["audio", "text"], "Unknown arguments")
    refuse_unknown(["text"], ["audio", "text"], "Unknown arguments")


def test_a_decorated_method_refuses_unknown_keywords():
    class Ear:
        @refuses_unknown_arguments
        def hear(self, audio=None, *, rate=1):
            """Docs."""
            return audio, rate

    assert Ear().hear("a", rate=2) == ("a", 2)
    assert Ear.hear.__doc__ == "Docs."
    with pytest.raises(TypeError, match="hear: unknown arguments .*Did you mean 'rate' instead of 'rat'"):
        Ear().hear("a", rat=2)


@pytest.mark.parametrize("depth", [1, 100_000])
def test_values_are_shown_cut_short(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    for value in (nested, 10**5000, "a" * 10**6, "\ud800", {"a": list(range(10**5))}, b"x" * 10**6):
        shown = shorten(value)
        assert len(shown) < 1000
        shown.encode()
