"""Text-centric cross-modal attention (paper: Eq. 1 and 2).

    H_text (B, L, D) ──project──► (B, L, H) ─┐ query
    audio token, video token (B, M, H) ──────┴─► Z_cross = CrossAttention(H_text, H_av, H_av) + H_text
                                                 Z_self  = SelfAttention(Z_cross) + Z_cross
                                                 f_fusion = mean of Z_self over the transcript's tokens (B, H)

Departures from the paper, each because it is silent there: H_text is projected from the language model's width D to H;
the sum is layer-normed before pooling's result goes on; a sample without text asks with one learned query vector; a
missing audio or video token is masked out, and with neither of the two Z_cross is H_text.
Next: experts_egmf.py.
"""

# B batch  L text tokens  M modalities  H fusion width  D LLM width

import torch
from torch import nn

from .configuration_egmf import EGMFConfig


class EGMFAttention(nn.Module):
    """Multi-head attention of queries (B, Q, H) over keys (B, K, H); a query without any key to see gets zeros."""

    def __init__(self, width: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a constant would not change the softmax
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        batch, length, width = states.shape
        return states.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, key_mask: torch.Tensor) -> torch.Tensor:
        """queries (B, Q, H), keys (B, K, H), key_mask (B, K) bool -> (B, Q, H)."""
        has_key = key_mask.any(dim=1)  # (B,)
        visible = key_mask | ~has_key[:, None]  # softmax over nothing is NaN: such rows are zeroed below
        attended = nn.functional.scaled_dot_product_attention(
            self._heads(self.query(queries)),
            self._heads(self.key(keys)),
            self._heads(self.value(keys)),
            attn_mask=visible[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        attended = attended.transpose(1, 2).flatten(2)  # (B, Q, H)
        return self.output(attended) * has_key[:, None, None]


class EGMFFusion(nn.Module):
    """Eq. 1 and 2, and the mean over the transcript's tokens."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width = config.fusion_hidden_size
        attention = (width, config.fusion_attention_heads, config.fusion_dropout)
        self.text_projection = nn.Linear(config.text_config.get_text_config().hidden_size, width)
        self.no_text_query = nn.Parameter(torch.zeros(width))
        self.text_norm = nn.LayerNorm(width)
        self.media_norm = nn.LayerNorm(width)
        self.media_attention = EGMFAttention(*attention) if config.bidirectional_attention else None
        self.cross_attention = EGMFAttention(*attention)
        self.self_attention = EGMFAttention(*attention)
        self.fused_norm = nn.LayerNorm(width)

    def forward(
        self, text_embeds: torch.Tensor, text_mask: torch.Tensor, media_tokens: torch.Tensor, media_mask: torch.Tensor
    ) -> torch.Tensor:
        """text_embeds (B, L, D), text_mask (B, L) bool, media_tokens (B, M, H), media_mask (B, M) bool -> (B, H)."""
        text = self.text_projection(text_embeds)  # (B, L, H)
        query = self.no_text_query.expand(text.shape[0], 1, -1)
        text = self.text_norm(torch.cat([query, text], dim=1))  # (B, 1 + L, H)
        has_text = text_mask.any(dim=1, keepdim=True)
        text_mask = torch.cat([~has_text, text_mask], dim=1)  # the learned query speaks only where no text does
        media = self.media_norm(media_tokens)
        if self.media_attention is not None:
            media = media + self.media_attention(media, text, text_mask & has_text)
        crossed = self.cross_attention(text, media, media_mask) + text  # Eq. 1
        settled = self.self_attention(crossed, crossed, text_mask) + crossed  # Eq. 2
        weights = text_mask / text_mask.sum(dim=1, keepdim=True)  # (B, 1 + L)
        pooled = torch.einsum("bl,blh->bh", weights.to(settled.dtype), settled)
        return self.fused_norm(pooled)  # (B, H)
