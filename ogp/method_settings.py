"""Which gradients a run takes, and how they are combined."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from ogp.pairs_settings import PairsSettings, Settings


class GradientSettings(Settings):
    """One gradient beside the target's: what it is taken on, and what the rule does with it."""

    role: Literal["opposed", "protected", "followed"] = Field(
        "opposed",
        description="opposed: the update should not lower its loss; protected: should not raise it; "
        "followed: added to the update outside of the rule",
    )
    data: PairsSettings | None = Field(
        None, description="pairs it is taken on; null is the training batch itself, from the same forward pass"
    )
    loss: Literal["kl", "nll", "npo"] = Field(
        "kl",
        description="kl: divergence from the teacher; nll: loss on the answers; npo: negative preference, which "
        "unlearns the answers (nll and npo: of `data` of its own)",
    )
    beta: float = Field(
        0.1, gt=0, description="npo only: how soon an answer that has become unlikely is left alone; 0 would be never"
    )
    batch_size: int = Field(8, ge=1, description="examples of `data` per optimizer step")
    weight: float = Field(
        1.0, gt=0, description="factor on the gradient, for `followed` and for sums; projections do not feel it"
    )

    @property
    def name(self) -> str:
        """What its figures are called in the record: `batch`, or where its data come from."""
        if self.data is None:
            return "batch"
        source = re.split(r"[:/\\]", self.data.source)[-1].removesuffix(".jsonl")
        return f"{source}-{self.loss}"

    @model_validator(mode="after")
    def _has_answers(self) -> GradientSettings:
        if self.data is None and self.loss != "kl":
            raise ValueError(f"`loss`: {self.loss} needs answers other than the target's: name `data`, or choose kl")
        return self


class MethodSettings(Settings):
    """How the gradients are taken and combined."""

    rule: Literal[
        "none",
        "difference",
        "orthogonal",
        "cone",
        "torchjd:PCGrad",
        "torchjd:UPGrad",
        "torchjd:MGDA",
        "torchjd:AlignedMTL",
        "torchjd:IMTLG",
    ] = Field(
        "orthogonal",
        description="none: plain SFT; difference: w_target g_t - w_opposed g_opposed + w_opposed g_protected; "
        "orthogonal: w_target g_t - w_opposed (its part along the others); cone: minus only what goes along opposed or "
        "against protected gradients, all at once; torchjd:NAME: rules of the extra `peers`",
    )
    when: Literal["always", "aligned", "conflicting"] = Field(
        "always", description="orthogonal only: project always, or when <g_t,g_o> > 0 (aligned), or < 0 (conflicting)"
    )
    w_target: float = Field(1.0, ge=0, description="weight of the target gradient")
    w_opposed: float = Field(1.0, ge=0, description="weight of what is removed (subtracted, for protected added)")
    pull: float = Field(0.0, ge=0, description="orthogonal only: adds this multiple of protected gradients (SafeGrad)")
    cosine_limit: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="orthogonal only: removes down to this cosine with the others; 0 removes everything (GRU: 0.5)",
    )
    gradients: tuple[GradientSettings, ...] = Field(
        (GradientSettings(),),
        min_length=1,
        max_length=8,
        description="the gradients beside the target's; memory grows with each",
    )
    space: Literal["gradient", "update"] = Field(
        "gradient",
        description="what the rule is applied to: the gradient AdamW gets, or the change of the parameters it makes",
    )
    refresh: int = Field(1, ge=1, description="steps that the other gradients are kept before they are taken anew")
    ema: float = Field(
        0.0, ge=0, lt=1, description="share of the past in a running mean of the other gradients; 0 has no memory"
    )
    granularity: Literal["global", "layer", "tensor"] = Field(
        "global", description="which parameters share one projection"
    )
    kl_direction: Literal["forward", "reverse", "jensen_shannon"] = Field(
        "forward", description="kl is KL(teacher || student) forward, KL(student || teacher) reverse, or their mean's"
    )
    kl_positions: Literal["answer", "nonpad", "all"] = Field(
        "answer", description="tokens of the training batch that carry kl; all includes padding, as the original does"
    )
    engine: Literal["auto", "dual", "ghost", "reference", "original"] = Field(
        "auto",
        description="how the gradients are obtained: dual is fast; ghost is faster for few tokens, in one process, as "
        "long as nothing asks for the opposed gradient itself; auto: the cheaper one of these; reference is slow and "
        "obvious; original is the published script's arithmetic",
    )
    stored_as: Literal["weights", "bfloat16"] = Field(
        "weights",
        description="dtype the gradients beside the target's wait in: that of the weights, or bfloat16 for less memory",
    )
    noise: float = Field(
        1e-4,
        ge=0,
        description="leave gradients alone whose norm is at most noise * |g_target|: at step 0 they are rounding noise",
    )
    update_cosine_every: int = Field(
        1, ge=0, description="steps between cosines of the change AdamW made with the other gradients; 0 never"
    )
    check_every: int = Field(
        4,
        ge=0,
        description="steps between comparisons of the other losses' first-order and measured change, for one "
        "forward pass; 0 never",
    )

    @model_validator(mode="after")
    def _consistent(self) -> MethodSettings:
        names = [gradient.name for gradient in self.gradients]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"`gradients`: {twice[0]} is there twice: join them, or use data with other names")
        if self.space == "update" and self.rule not in ("none", "orthogonal", "cone"):
            raise ValueError(f"`space`: update needs rule orthogonal or cone, found {self.rule!r}: sums have no length")
        if self.space == "update" and (self.pull or self.w_target != 1):
            raise ValueError("`space`: update takes neither `pull` nor `w_target`: set training.learning_rate instead")
        if self.engine == "original" and self.rule != "none":
            fixed = ("rule", "when", "granularity", "space", "kl_direction", "cosine_limit", "pull", "refresh", "ema")
            for name in (*fixed, "gradients"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"`engine`: original is the published method only: leave `{name}` at its default")
            if self.kl_positions != "all":
                raise ValueError("`engine`: original takes its KL on all positions: set `kl_positions: all`")
        return self
