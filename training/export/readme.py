"""README.md of an export, from the content of its export.json."""

from typing import Any


TEMPLATE = """# Everything in front of the language model

Exported from `{run}` by `egmf export`: encoders, fusion, experts and pseudo tokens, in float32. Each file was compared
with the PyTorch model, on inputs of other sizes, with modalities missing and switched off:

{files}

## Inputs

{inputs}

`batch` and the lengths are free.{shortest} All inputs are required: what a sample does not have is zeros, in the
values and in the mask. Those that `processor(..., return_tensors="np")` returns go in unchanged.

## Outputs

{outputs}

## Run

{code}

## The language model

`{language_model}`, a `{model_type}` model{revision}. `text_embeds` are the output of its embedding layer in float32,
and `utterance_mask` is the processor's. The {number} pseudo tokens replace the {number} placeholders `{placeholder}`
(id {placeholder_token_id}) of the processor's prompt; before embedding, the placeholders count as token 0:

```python
import torch

is_placeholder = input_ids == {placeholder_token_id}
embeds = language_model.get_input_embeddings()(input_ids.masked_fill(is_placeholder, 0))  # text_embeds
pseudo_tokens = torch.as_tensor(outputs["pseudo_tokens"]).to(embeds.dtype)
embeds = embeds.masked_scatter(is_placeholder[..., None], pseudo_tokens)
language_model(inputs_embeds=embeds, attention_mask=attention_mask)  # with the checkpoint's LoRA
```

The text of a sample whose `modality_mask` switches it off must also be 0 in the language model's `attention_mask`.
"""

CODE = {
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("egmf.onnx")
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(None, inputs)))     # inputs: name -> NumPy array
```""",
    "torch": """```python
import torch

program = torch.export.load("egmf.pt2").module()
outputs = program(**inputs)                               # inputs: name -> tensor
```""",
}


def render_readme(record: dict[str, Any]) -> str:
    """The text of README.md.

    Args:
        record: content of export.json.
    """
    files = [
        f"- `{name}`: outputs equal to {file['largest_difference']:.1e}" for name, file in record["files"].items()
    ]
    longer = {name: length for name, length in record["shortest_lengths"].items() if length > 1}
    shortest = "".join(f" `{name}` must be at least {length}: append zeros." for name, length in longer.items())
    language_model = record["language_model"]
    revision = language_model["revision"]
    return TEMPLATE.format(
        run=record["run"],
        files="\n".join(files),
        inputs=render_table(record["inputs"]),
        outputs=render_table(record["outputs"]),
        shortest=shortest,
        code="\n\n".join(CODE[file["format"]] for file in record["files"].values()),
        language_model=language_model["id"],
        model_type=language_model["model_type"],
        revision=f" at revision `{revision}`" if revision else "",
        **record["pseudo_tokens"],
    )


def render_table(specs: list[dict[str, Any]]) -> str:
    """Inputs or outputs as a Markdown table."""
    lines = ["| name | type | shape | meaning |", "|---|---|---|---|"]
    for spec in specs:
        shape = ", ".join(map(str, spec["shape"]))
        lines.append(f"| `{spec['name']}` | {spec['dtype']} | ({shape}) | {spec['meaning']} |")
    return "\n".join(lines)
