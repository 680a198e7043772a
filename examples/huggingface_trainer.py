"""maxl in Hugging Face's Trainer, with a small vision transformer, on scikit-learn's digits.

    python examples/huggingface_trainer.py [--epochs 20]

Needs maxl-torch[transformers] and scikit-learn (for the data alone). Half a minute on a CPU; downloads nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from transformers import TrainingArguments, ViTConfig, ViTModel, set_seed

import maxl
from maxl.integrations.transformers import MAXLTrainer, from_pretrained


def trunk() -> maxl.Features:
    """An encoder that takes its inputs by name and gives several things; ``from_pretrained`` ones go the same way."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,  # from nothing; one from a file has learned
    )
    return maxl.Features(ViTModel(config, add_pooling_layer=False), "last_hidden_state", pool="mean")


def accuracy(found: Any) -> dict[str, float]:
    """Of predictions, which are the primary head's."""
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def main(epochs: int) -> None:
    """Trains on 300 digits and prints the accuracy on the others."""
    set_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
    digits = [
        {"pixel_values": image, "labels": int(y)}
        for image, y in zip(images, load_digits().target, strict=True)
    ]
    hierarchy = maxl.Hierarchy.uniform(num_primary=10, k=5)
    network = maxl.MultiTaskNetwork(trunk(), hierarchy)
    generator = maxl.LabelGenerator.sharing(network)
    learner = maxl.MetaAuxiliaryLearner(
        network,
        generator,
        torch.optim.AdamW(network.parameters(), lr=1e-2),
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        task=maxl.Classification(gamma=0.0),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = MAXLTrainer(
            learner,
            TrainingArguments(
                folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=25,
                gradient_accumulation_steps=2,
                lr_scheduler_type="cosine",
                logging_strategy="epoch",
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=digits[:300],
            eval_dataset=digits[300:],
            compute_metrics=accuracy,
        )
        trainer.train()
        found = trainer.evaluate()
        trainer.save_model(folder)  # trunk and primary head, which are all that is left at test time
        with torch.no_grad():
            again = from_pretrained(folder, maxl.MultiTaskNetwork(trunk(), hierarchy)).predict(
                {"pixel_values": images[300:]}
            )
    right = (again.argmax(1) == torch.tensor(load_digits().target[300:])).float().mean()
    print(
        f"{trainer.state.global_step} steps: test accuracy {found['eval_accuracy']:.3f}, read again {right:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args().epochs)
