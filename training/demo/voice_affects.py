"""The affects of the demo's voice: every emotion is a point in a table of pitch, rate, loudness and voice quality.

The directions (pitch height and range, contour, rate, loudness, tilt, breath, tremor) follow the summary of vocal
affect by Scherer (2003), "Vocal communication of emotion: A review of research paradigms"; the magnitudes are ours,
chosen so that the emotions can be told apart. All pitch values are relative to the speaker's base pitch, so they carry
over to unseen speakers.

Next: `voice.py` synthesizes the speech.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VoiceAffect:
    """One point of the affect space of the voice; the default is neutral."""

    pitch_semitones: float = 0.0  # shift of the entire utterance from the speaker's base pitch
    range_semitones: float = 1.6  # size of the syllable accents
    slope_semitones: float = -2.0  # change from the first to the last syllable
    glide_semitones: float = 0.0  # change inside every syllable
    final_semitones: float = -1.0  # extra change over the last syllable
    syllables_per_second: float = 4.4
    loudness_db: float = 0.0
    tilt: float = 0.0  # -1 dull ... 1 bright and pressed
    breath: float = 0.05  # noise relative to the voiced part
    jitter: float = 0.008  # relative spread of the periods
    shimmer: float = 0.05  # relative spread of the pulse heights
    creak: float = 0.0  # every second pulse is weakened by this share
    tremor_semitones: float = 0.0  # depth of a 9 Hz waver in pitch and loudness
    legato: float = 0.75  # share of the syllable that is audible
    attack_seconds: float = 0.03
    formant_scale: float = 1.0  # lips spread (above 1) or protruded (below 1)
    pause: float = 0.0  # probability of a gap after a syllable


VOICE_AFFECTS: dict[str, VoiceAffect] = {
    "neutral": VoiceAffect(),
    "surprise": VoiceAffect(
        pitch_semitones=5,
        range_semitones=2.5,
        slope_semitones=5,
        glide_semitones=6,
        final_semitones=5,
        syllables_per_second=3.7,
        loudness_db=2,
        tilt=0.15,
        breath=0.10,
        legato=0.85,
        formant_scale=0.97,
    ),
    "fear": VoiceAffect(
        pitch_semitones=7,
        range_semitones=1,
        slope_semitones=0,
        final_semitones=1,
        syllables_per_second=6.6,
        loudness_db=-3,
        tilt=-0.2,
        breath=0.35,
        jitter=0.035,
        shimmer=0.15,
        tremor_semitones=1.6,
        legato=0.6,
        formant_scale=1.03,
    ),
    "sadness": VoiceAffect(
        pitch_semitones=-3,
        range_semitones=0.6,
        slope_semitones=-4,
        glide_semitones=-1.5,
        final_semitones=-3,
        syllables_per_second=2.6,
        loudness_db=-8,
        tilt=-0.9,
        breath=0.22,
        jitter=0.015,
        shimmer=0.08,
        legato=0.9,
        attack_seconds=0.09,
        pause=0.15,
    ),
    "joy": VoiceAffect(
        pitch_semitones=4,
        range_semitones=5.5,
        slope_semitones=0,
        glide_semitones=-1,
        final_semitones=1,
        syllables_per_second=5.4,
        loudness_db=4,
        tilt=0.35,
        breath=0.06,
        legato=0.8,
        formant_scale=1.08,
    ),
    "disgust": VoiceAffect(
        pitch_semitones=-4,
        range_semitones=3,
        slope_semitones=-3,
        glide_semitones=-5,
        final_semitones=-4,
        syllables_per_second=3.1,
        loudness_db=0,
        tilt=-0.1,
        breath=0.12,
        jitter=0.03,
        shimmer=0.2,
        creak=0.75,
        legato=0.95,
        formant_scale=0.90,
    ),
    "anger": VoiceAffect(
        pitch_semitones=1.5,
        range_semitones=3,
        slope_semitones=-1,
        glide_semitones=-4,
        final_semitones=-3,
        syllables_per_second=5.2,
        loudness_db=9,
        tilt=1.0,
        breath=0.05,
        jitter=0.02,
        shimmer=0.12,
        creak=0.2,
        legato=0.65,
        attack_seconds=0.008,
        formant_scale=1.02,
    ),
}


def mix_voice_affects(weights: dict[str, float]) -> VoiceAffect:
    """Weighted mean of table points; the weights must add up to one."""
    values = {}
    for field in dataclasses.fields(VoiceAffect):
        values[field.name] = sum(weight * getattr(VOICE_AFFECTS[name], field.name) for name, weight in weights.items())
    return VoiceAffect(**values)
