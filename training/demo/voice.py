"""A small source-filter voice whose affect is a point in a table: the sound of the demo corpus.

A pulse train follows the pitch contour (with jitter and shimmer), a two-pole filter gives it the spectral tilt of the
glottis, breath noise is added, and four moving resonators make the vowels, one target a syllable. The directions of
the table (pitch height and range, contour, rate, loudness, tilt, breath, tremor) follow the summary of vocal affect
by Scherer (2003), "Vocal communication of emotion: A review of research paradigms"; the sizes are ours, chosen to be
told apart. All pitch values are relative to the speaker's own base, so they carry over to unseen speakers.

    syllable plan -> pitch contour -> pulses (jitter, shimmer) -> tilt -> + breath -> formants -> envelope -> + room

Shapes: S samples at 16 kHz  K syllables. Next: `demo_face.py` draws the face, `demo_corpus.py` joins both.
"""

import dataclasses

import numpy as np
from scipy.signal import lfilter, sosfilt


SAMPLE_RATE = 16_000
_BLOCK = 320  # samples for which the formants stand still (20 ms)
# First three formants in Hz of an average adult: a e i o u @ (Peterson and Barney, 1952, rounded).
_VOWELS = np.array(
    [[760, 1250, 2500], [560, 1850, 2520], [320, 2300, 3000], [520, 920, 2450], [340, 920, 2300], [500, 1450, 2450]],
    dtype=np.float64,
)


@dataclasses.dataclass(frozen=True)
class VoiceAffect:
    """One point of the affect space of the voice; the default is neutral."""

    pitch_semitones: float = 0.0  # shift of the whole utterance against the speaker's base
    range_semitones: float = 1.6  # size of the syllable accents
    slope_semitones: float = -2.0  # change from the first to the last syllable
    glide_semitones: float = 0.0  # change inside every syllable
    final_semitones: float = -1.0  # extra change over the last syllable
    syllables_per_second: float = 4.4
    loudness_db: float = 0.0
    tilt: float = 0.0  # -1 dull ... 1 bright and pressed
    breath: float = 0.05  # noise against the voiced part
    jitter: float = 0.008  # relative spread of the periods
    shimmer: float = 0.05  # relative spread of the pulse heights
    creak: float = 0.0  # every second pulse is weakened by this share
    tremor_semitones: float = 0.0  # depth of a 9 Hz waver in pitch and height
    legato: float = 0.75  # share of the syllable that sounds
    attack_seconds: float = 0.03
    formant_scale: float = 1.0  # lips spread (above 1) or protruded (below 1)
    pause: float = 0.0  # probability of a gap after a syllable


VOICE_AFFECTS: dict[str, VoiceAffect] = {
    "neutral": VoiceAffect(),
    "surprise": VoiceAffect(
        pitch_semitones=5, range_semitones=2.5, slope_semitones=5, glide_semitones=6, final_semitones=5,
        syllables_per_second=3.7, loudness_db=2, tilt=0.15, breath=0.10, legato=0.85, formant_scale=0.97,
    ),
    "fear": VoiceAffect(
        pitch_semitones=7, range_semitones=1, slope_semitones=0, final_semitones=1, syllables_per_second=6.6,
        loudness_db=-3, tilt=-0.2, breath=0.35, jitter=0.035, shimmer=0.15, tremor_semitones=1.6, legato=0.6,
        formant_scale=1.03,
    ),
    "sadness": VoiceAffect(
        pitch_semitones=-3, range_semitones=0.6, slope_semitones=-4, glide_semitones=-1.5, final_semitones=-3,
        syllables_per_second=2.6, loudness_db=-8, tilt=-0.9, breath=0.22, jitter=0.015, shimmer=0.08, legato=0.9,
        attack_seconds=0.09, pause=0.15,
    ),
    "joy": VoiceAffect(
        pitch_semitones=4, range_semitones=5.5, slope_semitones=0, glide_semitones=-1, final_semitones=1,
        syllables_per_second=5.4, loudness_db=4, tilt=0.35, breath=0.06, legato=0.8, formant_scale=1.08,
    ),
    "disgust": VoiceAffect(
        pitch_semitones=-4, range_semitones=3, slope_semitones=-3, glide_semitones=-5, final_semitones=-4,
        syllables_per_second=3.1, loudness_db=0, tilt=-0.1, breath=0.12, jitter=0.03, shimmer=0.2, creak=0.75,
        legato=0.95, formant_scale=0.90,
    ),
    "anger": VoiceAffect(
        pitch_semitones=1.5, range_semitones=3, slope_semitones=-1, glide_semitones=-4, final_semitones=-3,
        syllables_per_second=5.2, loudness_db=9, tilt=1.0, breath=0.05, jitter=0.02, shimmer=0.12, creak=0.2,
        legato=0.65, attack_seconds=0.008, formant_scale=1.02,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VoiceSpeaker:
    """What stays the same in all utterances of one speaker."""

    base_hertz: float
    formant_scale: float
    tilt: float
    breath: float
    rate: float
    room_db: float


def make_voice_speaker(rng: np.random.Generator) -> VoiceSpeaker:
    """Draws a speaker: base pitch of 90 to 260 Hz, with vocal tract length loosely tied to it."""
    height = rng.uniform()
    return VoiceSpeaker(
        base_hertz=float(90 * (260 / 90) ** height),
        formant_scale=float(0.92 + 0.2 * height + rng.normal(0, 0.025)),
        tilt=float(rng.normal(0, 0.08)),
        breath=float(abs(rng.normal(0, 0.02))),
        rate=float(rng.normal(1, 0.05)),
        room_db=float(rng.uniform(-56, -46)),
    )


def mix_voice_affects(weights: dict[str, float]) -> VoiceAffect:
    """Weighted mean of table points; the weights must add up to one."""
    names = [field.name for field in dataclasses.fields(VoiceAffect)]
    return VoiceAffect(**{n: sum(w * getattr(VOICE_AFFECTS[e], n) for e, w in weights.items()) for n in names})


def synthesize(speaker: VoiceSpeaker, affect: VoiceAffect, num_syllables: int, rng: np.random.Generator) -> np.ndarray:
    """Makes one utterance.

    Args:
        speaker: the speaker's constants.
        affect: the affect point.
        num_syllables: syllables wanted; the number is changed where 1.5 to 3 s at the affect's rate demand it.
        rng: source of everything that varies between two utterances.

    Returns:
        Mono samples in [-1, 1] at 16 kHz, float32 of shape (S,).
    """
    rate = affect.syllables_per_second * speaker.rate * rng.normal(1, 0.03)
    lead_seconds, tail_seconds = rng.uniform(0.06, 0.15), rng.uniform(0.1, 0.2)
    pauses = rng.uniform(size=24) < affect.pause
    seconds = float(np.clip(num_syllables / rate + 0.3, 1.55, rng.uniform(1.8, 2.95)))
    speech_seconds = seconds - lead_seconds - tail_seconds
    num_syllables = max(3, round(speech_seconds * rate))
    lengths = rng.uniform(0.8, 1.2, num_syllables) + 0.6 * pauses[:num_syllables]
    lengths[-1] *= 1.25
    edges = lead_seconds + speech_seconds * np.concatenate([[0], np.cumsum(lengths) / lengths.sum()])
    num_samples = int(np.ceil(seconds * SAMPLE_RATE / _BLOCK)) * _BLOCK
    times = np.arange(num_samples) / SAMPLE_RATE  # (S,)
    syllable = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, num_syllables - 1)  # (S,)
    inside = np.clip((times - edges[syllable]) / np.diff(edges)[syllable], 0, 1)  # (S,)

    voiced = _pulses(_pitch_track(speaker, affect, syllable, inside, times, num_syllables, rng), affect, rng)
    voiced = _glottal_tilt(voiced, affect.tilt + speaker.tilt)
    voiced /= np.sqrt(np.mean(voiced**2)) + 1e-9
    noise = lfilter([1, -0.6], [1], rng.normal(size=num_samples))
    source = voiced + (affect.breath + speaker.breath) * 1.5 * noise
    envelope = _envelope(affect, edges, lengths, pauses, times, syllable, inside, num_syllables, rng)
    spoken = _formants(source * envelope, speaker.formant_scale * affect.formant_scale, syllable, inside, rng)
    spoken += _consonants(edges, num_samples, num_syllables, affect, rng) * np.sqrt(np.mean(spoken**2))

    level_db = -27 + affect.loudness_db + rng.normal(0, 0.8)
    spoken *= 10 ** (level_db / 20) / (np.sqrt(np.mean(spoken**2)) + 1e-9)
    room = lfilter([0.12], [1, -0.88], rng.normal(size=num_samples)) + 0.15 * rng.normal(size=num_samples)
    spoken += room / room.std() * 10 ** ((speaker.room_db + rng.normal(0, 1.5)) / 20)
    return np.tanh(spoken).astype(np.float32)


def _pitch_track(
    speaker: VoiceSpeaker, affect: VoiceAffect, syllable: np.ndarray, inside: np.ndarray, times: np.ndarray,
    num_syllables: int, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Pitch in Hz at every sample, (S,)."""
    # Accents alternate with a random start, so that the range shows even in an utterance of three syllables.
    sign = np.where((np.arange(num_syllables) + rng.integers(2)) % 2, 1, -1)
    accents = affect.range_semitones * sign * rng.uniform(0.5, 1.1, num_syllables)  # (K,)
    position = np.arange(num_syllables) / max(1, num_syllables - 1) - 0.5
    steps = affect.pitch_semitones + rng.normal(0, 0.4) + accents + affect.slope_semitones * position
    semitones = steps[syllable] + affect.glide_semitones * (inside - 0.5)
    semitones += np.where(syllable == num_syllables - 1, affect.final_semitones * inside, 0)
    width = int(0.04 * SAMPLE_RATE)
    box = np.ones(width) / width
    semitones = np.convolve(np.pad(semitones, width, mode="edge"), box, mode="same")[width:-width]
    semitones = semitones + affect.tremor_semitones * np.sin(2 * np.pi * (9 * times + rng.uniform()))
    return np.clip(speaker.base_hertz * 2 ** (semitones / 12), 55, 700)


def _pulses(hertz: np.ndarray, affect: VoiceAffect, rng: np.random.Generator) -> np.ndarray:
    """Pulse train of the pitch, with jitter, shimmer and creak, (S,)."""
    phase = np.cumsum(hertz) / SAMPLE_RATE
    count = int(phase[-1])
    marks = np.arange(1, count) + np.cumsum(rng.normal(0, affect.jitter, count - 1)) * 0.5
    marks += rng.normal(0, affect.jitter, count - 1)
    where = np.interp(marks, phase, np.arange(len(phase), dtype=np.float64))  # fractional samples
    heights = np.clip(1 + rng.normal(0, affect.shimmer, count - 1), 0.1, None)
    heights[::2] *= 1 - affect.creak
    low = np.floor(where).astype(int)
    fraction = where - low
    pulses = np.zeros(len(phase) + 2)
    np.add.at(pulses, low, heights * (1 - fraction))
    np.add.at(pulses, low + 1, heights * fraction)
    return pulses[: len(phase)]


def _glottal_tilt(pulses: np.ndarray, tilt: float) -> np.ndarray:
    """Two poles that make the pulses glottal; -1 gives a dull, 1 a bright source, (S,)."""
    pole = np.clip(0.90 - 0.14 * tilt, 0.6, 0.985)
    second = np.clip(0.80 - 0.35 * tilt, 0.2, 0.97)
    flow = lfilter([1], np.convolve([1, -pole], [1, -second]), pulses)
    return lfilter([1, -0.98], [1], flow)  # radiation at the lips, without DC


def _envelope(
    affect: VoiceAffect, edges: np.ndarray, lengths: np.ndarray, pauses: np.ndarray, times: np.ndarray,
    syllable: np.ndarray, inside: np.ndarray, num_syllables: int, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Loudness of the syllables over time, (S,)."""
    durations = np.diff(edges)
    sounding = np.where(pauses[:num_syllables], affect.legato / 1.6, affect.legato) * durations  # (K,) seconds
    since = inside * durations[syllable]
    rise = np.clip(since / affect.attack_seconds, 0, 1)
    fall = np.clip((sounding[syllable] - since) / 0.05 + 0.5, 0, 1)
    stress = rng.uniform(0.75, 1.15, num_syllables)[syllable]
    tremor = 1 + 0.2 * affect.tremor_semitones * np.sin(2 * np.pi * (9 * times + rng.uniform()))
    spoken = (times >= edges[0]) & (times < edges[-1])
    return np.sin(0.5 * np.pi * np.minimum(rise, fall)) ** 2 * stress * tremor * spoken


def _formants(
    source: np.ndarray, scale: float, syllable: np.ndarray, inside: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Four resonators in a row, moving from vowel to vowel, (S,)."""
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=syllable[-1] + 2)] * scale  # (K + 1, 3)
    out = np.empty_like(source)
    state = np.zeros((4, 2))
    bandwidths = np.array([70, 100, 150, 220.0])
    radius = np.exp(-np.pi * bandwidths / SAMPLE_RATE)
    sections = np.zeros((4, 6))
    sections[:, 3] = 1
    for start in range(0, len(source), _BLOCK):
        k, share = syllable[start], max(0.0, inside[start] - 0.6) / 0.4
        hertz = np.append((1 - share) * vowels[k] + share * vowels[k + 1], 3600 * scale)
        sections[:, 4] = -2 * radius * np.cos(2 * np.pi * hertz / SAMPLE_RATE)
        sections[:, 5] = radius**2
        sections[:, 0] = 1 + sections[:, 4] + sections[:, 5]  # unit gain at DC
        out[start : start + _BLOCK], state = sosfilt(sections, source[start : start + _BLOCK], zi=state)
    return out


def _consonants(
    edges: np.ndarray, num_samples: int, num_syllables: int, affect: VoiceAffect, rng: np.random.Generator
) -> np.ndarray:
    """Short bursts of hiss at the start of some syllables, relative to the level of speech, (S,)."""
    hiss = np.zeros(num_samples)
    for k in range(num_syllables):
        length = int(rng.uniform(0.02, 0.06) * SAMPLE_RATE)
        start = int(edges[k] * SAMPLE_RATE)
        burst = lfilter([1, -0.9], [1], rng.normal(size=length)) * np.hanning(length)
        if rng.uniform() < 0.45 and start + length <= num_samples:
            hiss[start : start + length] += burst * (0.35 + 0.15 * affect.tilt)
    return hiss
