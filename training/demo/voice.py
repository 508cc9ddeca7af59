"""A small source-filter voice: the audio of the demo corpus.

A pulse train follows the pitch contour (with jitter and shimmer), a two-pole filter gives it the spectral tilt of the
glottis, breath noise is added, and four moving resonators form the vowels, with one target per syllable.

    syllables -> pitch contour -> pulses -> tilt -> + breath -> envelope -> formants -> + consonants -> + room noise

Shapes: S samples at 16 kHz  K syllables. Next: `voice_affects.py` holds the emotions, `clips.py` adds the face.
"""

import dataclasses

import numpy as np
from scipy.signal import lfilter, sosfilt

from .voice_affects import VoiceAffect


SAMPLE_RATE = 16_000
TREMOR_HERTZ = 9
_BLOCK = 320  # samples over which the formants are constant (20 ms)
_MAX_PAUSES = 24
# First three formants in Hz of an average adult (Peterson and Barney, 1952, rounded).
_VOWELS = np.array(
    [
        [760, 1250, 2500],  # a
        [560, 1850, 2520],  # e
        [320, 2300, 3000],  # i
        [520, 920, 2450],  # o
        [340, 920, 2300],  # u
        [500, 1450, 2450],  # schwa
    ],
    dtype=np.float64,
)
_FOURTH_FORMANT = 3600
_BANDWIDTHS = np.array([70, 100, 150, 220.0])  # of the four formants in Hz


@dataclasses.dataclass(frozen=True)
class VoiceSpeaker:
    """The voice of a speaker, the same in all of their utterances."""

    base_hertz: float
    formant_scale: float
    tilt: float
    breath: float
    rate: float
    room_db: float


@dataclasses.dataclass(frozen=True)
class Syllables:
    """Timing of an utterance's syllables, and the syllable of every sample."""

    edges: np.ndarray  # (K + 1,) seconds at which the syllables start and the last one ends
    has_pause: np.ndarray  # (K,) whether silence follows
    times: np.ndarray  # (S,) seconds
    index: np.ndarray  # (S,) the sample's syllable
    position: np.ndarray  # (S,) in [0, 1] within the syllable

    @property
    def count(self) -> int:
        return len(self.has_pause)

    @property
    def durations(self) -> np.ndarray:
        """(K,) seconds."""
        return np.diff(self.edges)


def make_voice_speaker(rng: np.random.Generator) -> VoiceSpeaker:
    """Draw a speaker at random: a base pitch of 90 to 260 Hz, with vocal tract length loosely tied to it."""
    height = rng.uniform()
    return VoiceSpeaker(
        base_hertz=float(90 * (260 / 90) ** height),
        formant_scale=float(0.92 + 0.2 * height + rng.normal(0, 0.025)),
        tilt=float(rng.normal(0, 0.08)),
        breath=float(abs(rng.normal(0, 0.02))),
        rate=float(rng.normal(1, 0.05)),
        room_db=float(rng.uniform(-56, -46)),
    )


def synthesize(speaker: VoiceSpeaker, affect: VoiceAffect, num_syllables: int, rng: np.random.Generator) -> np.ndarray:
    """Make one utterance.

    Args:
        speaker: the speaker's constants.
        affect: the affect point.
        num_syllables: syllables of the text; adjusted if the utterance would not last 1.5 to 3 s at the affect's rate.
        rng: source of everything that varies between two utterances.

    Returns:
        Mono samples in [-1, 1] at 16 kHz, float32 of shape (S,).
    """
    syllables = _plan_syllables(speaker, affect, num_syllables, rng)
    num_samples = len(syllables.times)
    hertz = _pitch_track(speaker, affect, syllables, rng)
    voiced = _pulses(hertz, affect, rng)
    voiced = _glottal_tilt(voiced, affect.tilt + speaker.tilt)
    voiced /= _rms(voiced) + 1e-9
    noise = lfilter([1, -0.6], [1], rng.normal(size=num_samples))
    source = voiced + (affect.breath + speaker.breath) * 1.5 * noise
    envelope = _envelope(affect, syllables, rng)
    spoken = _formants(source * envelope, speaker.formant_scale * affect.formant_scale, syllables, rng)
    spoken += _consonants(syllables, affect, rng) * _rms(spoken)

    level_db = -27 + affect.loudness_db + rng.normal(0, 0.8)
    spoken *= 10 ** (level_db / 20) / (_rms(spoken) + 1e-9)
    room = lfilter([0.12], [1, -0.88], rng.normal(size=num_samples)) + 0.15 * rng.normal(size=num_samples)
    room_db = speaker.room_db + rng.normal(0, 1.5)
    spoken += room / room.std() * 10 ** (room_db / 20)
    return np.tanh(spoken).astype(np.float32)


def _rms(samples: np.ndarray) -> float:
    return np.sqrt(np.mean(samples**2))


def _plan_syllables(
    speaker: VoiceSpeaker, affect: VoiceAffect, num_syllables: int, rng: np.random.Generator
) -> Syllables:
    """Times of the syllables, with silence before the first and after the last."""
    rate = affect.syllables_per_second * speaker.rate * rng.normal(1, 0.03)
    lead_seconds = rng.uniform(0.06, 0.15)
    tail_seconds = rng.uniform(0.1, 0.2)
    has_pause = rng.uniform(size=_MAX_PAUSES) < affect.pause
    seconds = float(np.clip(num_syllables / rate + 0.3, 1.55, rng.uniform(1.8, 2.95)))
    speech_seconds = seconds - lead_seconds - tail_seconds
    num_syllables = max(3, round(speech_seconds * rate))
    has_pause = has_pause[:num_syllables]
    lengths = rng.uniform(0.8, 1.2, num_syllables) + 0.6 * has_pause
    lengths[-1] *= 1.25
    shares = np.cumsum(lengths) / lengths.sum()
    edges = lead_seconds + speech_seconds * np.concatenate([[0], shares])
    num_samples = int(np.ceil(seconds * SAMPLE_RATE / _BLOCK)) * _BLOCK
    times = np.arange(num_samples) / SAMPLE_RATE
    index = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, num_syllables - 1)
    position = np.clip((times - edges[index]) / np.diff(edges)[index], 0, 1)
    return Syllables(edges, has_pause, times, index, position)


def _pitch_track(
    speaker: VoiceSpeaker, affect: VoiceAffect, syllables: Syllables, rng: np.random.Generator
) -> np.ndarray:
    """Pitch in Hz at every sample, (S,)."""
    count = syllables.count
    # Accents alternate with a random start, so that the range shows even in an utterance of three syllables.
    sign = np.where((np.arange(count) + rng.integers(2)) % 2, 1, -1)
    accents = affect.range_semitones * sign * rng.uniform(0.5, 1.1, count)  # (K,)
    place = np.arange(count) / max(1, count - 1) - 0.5
    steps = affect.pitch_semitones + rng.normal(0, 0.4) + accents + affect.slope_semitones * place
    semitones = steps[syllables.index] + affect.glide_semitones * (syllables.position - 0.5)  # (S,)
    is_last = syllables.index == count - 1
    semitones += np.where(is_last, affect.final_semitones * syllables.position, 0)
    width = int(0.04 * SAMPLE_RATE)
    padded = np.pad(semitones, width, mode="edge")
    semitones = np.convolve(padded, np.ones(width) / width, mode="same")[width:-width]
    semitones = semitones + affect.tremor_semitones * _tremor(syllables.times, rng)
    return np.clip(speaker.base_hertz * 2 ** (semitones / 12), 55, 700)


def _tremor(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A waver in [-1, 1] with a random start, (S,)."""
    return np.sin(2 * np.pi * (TREMOR_HERTZ * times + rng.uniform()))


def _pulses(hertz: np.ndarray, affect: VoiceAffect, rng: np.random.Generator) -> np.ndarray:
    """Pulse train of the pitch, with jitter, shimmer and creak, (S,)."""
    phase = np.cumsum(hertz) / SAMPLE_RATE
    num_periods = int(phase[-1])
    num_pulses = num_periods - 1
    drift = np.cumsum(rng.normal(0, affect.jitter, num_pulses)) * 0.5
    marks = np.arange(1, num_periods) + drift
    marks += rng.normal(0, affect.jitter, num_pulses)
    places = np.interp(marks, phase, np.arange(len(phase), dtype=np.float64))  # fractional samples
    heights = np.clip(1 + rng.normal(0, affect.shimmer, num_pulses), 0.1, None)
    heights[::2] *= 1 - affect.creak
    below = np.floor(places).astype(int)
    fraction = places - below
    pulses = np.zeros(len(phase) + 2)
    np.add.at(pulses, below, heights * (1 - fraction))
    np.add.at(pulses, below + 1, heights * fraction)
    return pulses[: len(phase)]


def _glottal_tilt(pulses: np.ndarray, tilt: float) -> np.ndarray:
    """Filter the pulses with two glottal poles, (S,); a tilt of -1 gives a dull source, 1 a bright one."""
    first = np.clip(0.90 - 0.14 * tilt, 0.6, 0.985)
    second = np.clip(0.80 - 0.35 * tilt, 0.2, 0.97)
    flow = lfilter([1], np.convolve([1, -first], [1, -second]), pulses)
    return lfilter([1, -0.98], [1], flow)  # radiation at the lips, without DC


def _envelope(affect: VoiceAffect, syllables: Syllables, rng: np.random.Generator) -> np.ndarray:
    """Loudness of the syllables over time, (S,)."""
    legato = np.where(syllables.has_pause, affect.legato / 1.6, affect.legato)
    sounding = legato * syllables.durations  # (K,) seconds
    since_start = syllables.position * syllables.durations[syllables.index]  # (S,) seconds
    rise = np.clip(since_start / affect.attack_seconds, 0, 1)
    fall = np.clip((sounding[syllables.index] - since_start) / 0.05 + 0.5, 0, 1)
    stress = rng.uniform(0.75, 1.15, syllables.count)[syllables.index]
    tremor = 1 + 0.2 * affect.tremor_semitones * _tremor(syllables.times, rng)
    is_speech = (syllables.times >= syllables.edges[0]) & (syllables.times < syllables.edges[-1])
    return np.sin(0.5 * np.pi * np.minimum(rise, fall)) ** 2 * stress * tremor * is_speech


def _formants(source: np.ndarray, scale: float, syllables: Syllables, rng: np.random.Generator) -> np.ndarray:
    """Four resonators in series, moving from vowel to vowel, (S,)."""
    num_vowels = syllables.index[-1] + 2
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=num_vowels)] * scale  # (K + 1, 3)
    radius = np.exp(-np.pi * _BANDWIDTHS / SAMPLE_RATE)
    sections = np.zeros((4, 6))
    sections[:, 3] = 1
    state = np.zeros((4, 2))
    filtered = np.empty_like(source)
    for start in range(0, len(source), _BLOCK):
        syllable = syllables.index[start]
        share = max(0.0, syllables.position[start] - 0.6) / 0.4
        hertz = (1 - share) * vowels[syllable] + share * vowels[syllable + 1]
        hertz = np.append(hertz, _FOURTH_FORMANT * scale)
        sections[:, 4] = -2 * radius * np.cos(2 * np.pi * hertz / SAMPLE_RATE)
        sections[:, 5] = radius**2
        sections[:, 0] = 1 + sections[:, 4] + sections[:, 5]  # unit gain at DC
        block = slice(start, start + _BLOCK)
        filtered[block], state = sosfilt(sections, source[block], zi=state)
    return filtered


def _consonants(syllables: Syllables, affect: VoiceAffect, rng: np.random.Generator) -> np.ndarray:
    """Short bursts of hiss at the start of some syllables, relative to the level of speech, (S,)."""
    num_samples = len(syllables.times)
    hiss = np.zeros(num_samples)
    for edge in syllables.edges[:-1]:
        length = int(rng.uniform(0.02, 0.06) * SAMPLE_RATE)
        start = int(edge * SAMPLE_RATE)
        burst = lfilter([1, -0.9], [1], rng.normal(size=length)) * np.hanning(length)
        if rng.uniform() < 0.45 and start + length <= num_samples:
            hiss[start : start + length] += burst * (0.35 + 0.15 * affect.tilt)
    return hiss
