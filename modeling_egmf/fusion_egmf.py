"""Text-centric cross-modal attention of EGMF (paper: Eq. 1 and 2).

    H_text (B, L, D) ── project, norm ──► (B, L, H) ─┐ query
    audio and video token (B, 2, H) ── norm ─────────┴─► Z_cross  = CrossAttention(H_text, H_av, H_av) + H_text   Eq. 1
                                                         Z_self   = SelfAttention(Z_cross) + Z_cross              Eq. 2
                                                         f_fusion = mean of Z_self over the transcript (B, H)

modeling_egmf.py lists what we add to the paper's equations, and why. Next: experts_egmf.py.
"""

# B batch  L text tokens  Q queries  K keys  H fusion width  D LLM width

import torch
from torch import Tensor, nn

from .configuration_egmf import EGMFConfig
from .fields_egmf import embedding_width
from .precision_egmf import EGMFFloat32Module, in_float32


class EGMFAttention(EGMFFloat32Module):
    """Multi-head attention of queries over keys. The output is zero for a sample without any key."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width = config.fusion_hidden_size
        self.num_heads = config.fusion_attention_heads
        self.dropout = config.fusion_dropout
        self.query = nn.Linear(width, width)
        # A bias would not change the softmax.
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor) -> Tensor:
        """queries (B, Q, H), keys (B, K, H), key_mask (B, K) bool, true on real keys -> (B, Q, H)."""
        # (B,)
        has_key = key_mask.any(dim=1)
        # A softmax over no keys is NaN: a sample without keys sees its masked ones, and is set to zero below.
        # (B, K)
        visible = key_mask | ~has_key[:, None]
        heads = (self.num_heads, -1)
        attended = nn.functional.scaled_dot_product_attention(
            # (B, heads, Q or K, head width)
            self.query(queries).unflatten(2, heads).transpose(1, 2),
            self.key(keys).unflatten(2, heads).transpose(1, 2),
            self.value(keys).unflatten(2, heads).transpose(1, 2),
            attn_mask=visible[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        # (B, Q, H)
        attended = attended.transpose(1, 2).flatten(2)
        return self.output(attended) * has_key[:, None, None]


class EGMFFusion(EGMFFloat32Module):
    """Eq. 1 and 2, and the mean over the transcript's tokens."""

    def __init__(self, config: EGMFConfig):
        super().__init__()
        width = config.fusion_hidden_size
        norm = nn.LayerNorm if config.fusion_norms else nn.Identity
        self.text_projection = nn.Linear(embedding_width(config.text_config), width)
        self.no_text_query = nn.Parameter(torch.zeros(width))
        self.text_norm = norm(width)
        self.media_norm = norm(width)
        self.media_attention = None
        if config.bidirectional_attention:
            self.media_attention = EGMFAttention(config)
        self.cross_attention = EGMFAttention(config)
        self.self_attention = EGMFAttention(config)
        self.fused_norm = norm(width)

    @in_float32
    def forward(
        self,
        text_embeds: Tensor,
        text_mask: Tensor,
        media_tokens: Tensor,
        media_mask: Tensor,
    ) -> Tensor:
        """Fuse the text with the media tokens.

        Args:
            text_embeds: (B, L, D) token embeddings of the language model.
            text_mask: (B, L) bool, true on the transcript's tokens. A row without any means a sample without text.
            media_tokens: (B, 2, H) audio token and video token.
            media_mask: (B, 2) bool, true where the sample has the modality.

        Returns:
            (B, H) f_fusion.
        """
        # The first query is learned, and is used only for samples without text.
        has_text = text_mask.any(dim=1, keepdim=True)  # (B, 1)
        # (B, 1 + L)
        query_mask = torch.cat([~has_text, text_mask], dim=1)
        no_text_query = self.no_text_query.expand(text_embeds.shape[0], 1, -1)
        text = torch.cat([no_text_query, self.text_projection(text_embeds)], dim=1)
        # (B, 1 + L, H)
        text = self.text_norm(text)
        # (B, 2, H)
        media = self.media_norm(media_tokens)
        if self.media_attention is not None:
            media = media + self.media_attention(media, text, query_mask & has_text)

        z_cross = self.cross_attention(text, media, media_mask) + text  # Eq. 1
        z_self = self.self_attention(z_cross, z_cross, query_mask) + z_cross  # Eq. 2

        # (B, 1 + L)
        weights = query_mask / query_mask.sum(dim=1, keepdim=True)
        pooled = torch.einsum("bl,blh->bh", weights.to(z_self.dtype), z_self)  # (B, H)
        return self.fused_norm(pooled)
