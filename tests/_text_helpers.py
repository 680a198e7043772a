"""Very small encoders of texts with tokenizers, in folders as save_pretrained leaves them, and texts to go with them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = ["book", "table", "cancel", "rain", "sun", "today", "now", "please", "the", "a"]
LENGTH = 6  # tokens of a text in most tests


@pytest.fixture(scope="module", autouse=True)
def little_garbage() -> Iterator[None]:
    """A run collects garbage before it begins, among all objects that the imports have made; import it to use it."""
    transformers()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def transformers() -> Any:
    """The library, silent; a test that asks for it is skipped where it is missing."""
    library = pytest.importorskip("transformers", reason="needs transformers")
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()
    return library


def encoder(
    folder: Path, kind: str = "Bert", *, positions: int = 12, padding: bool = True, **words: Any
) -> Any:
    """A model in a folder, with a tokenizer of a few words that gives [CLS] text [SEP]; returned with its head."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    library = transformers()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special |= {"pad_token": "[PAD]"} if padding else {}
    library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    config = getattr(library, f"{kind}Config")(
        **{
            "vocab_size": len(names),
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": positions,
            **words,
        }
    )
    torch.manual_seed(3)
    model = getattr(library, f"{kind}ForMaskedLM", library.AutoModel.from_config)(config)
    model.save_pretrained(folder)
    return model


def texts(count: int = 40) -> list[tuple[str, str, str]]:
    """Texts of one to seven words with their class, weather or restaurant, and a finer one."""
    found = []
    for i in range(count):
        first = ("book", "rain", "cancel", "sun")[i % 4]
        rest = [WORDS[(3 * i + j * j) % len(WORDS)] for j in range(i % 7)]
        found.append((" ".join([first, *rest]), ("restaurant", "weather")[i % 2], first))
    return found


def write_texts(file: Path, count: int = 40) -> Path:
    """A CSV file of them, with the columns text, label and finer."""
    rows = ["text,label,finer", *(",".join(row) for row in texts(count))]
    file.write_text("\n".join(rows) + "\n")
    return file
