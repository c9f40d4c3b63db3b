"""README says what ran with which versions, as it was written down."""

import json

from helpers.matrix import PAGE, RESULTS, TABLE, table


def test_the_table_of_readme_is_what_ran() -> None:
    page = PAGE.read_text()
    assert TABLE.sub(rf'\g<1>{table(json.loads(RESULTS.read_text()))}\n\g<2>', page) == page
    assert len(TABLE.findall(page)) == 1
