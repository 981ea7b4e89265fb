"""Makes the table that the package ships: python -m nnunetv2_clip.text.make_shipped_table (needs extra [minilm])."""

from nnunetv2_clip.classes import UNIVERSAL
from nnunetv2_clip.errors import exit_on_user_error
from nnunetv2_clip.text.encode import SHIPPED_MINILM, minilm_table


def main() -> None:
    table = minilm_table(UNIVERSAL.rows)
    table.save(SHIPPED_MINILM)
    print(f"{SHIPPED_MINILM}: {len(table.class_names)} x {table.width}, {table.library}, sha256 {table.sha256}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
