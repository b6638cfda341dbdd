//! The published contract never changes: what was released is compared byte for byte.

use crate::harness::root;

#[test]
fn the_published_wit_is_the_released_one() {
    let published = std::fs::read_to_string(root().join("wit/stage.wit")).expect("wit/stage.wit");
    let released = std::fs::read_to_string(root().join("tests/fixtures/released/stage-1.0.0.wit")).expect("the released copy");
    assert!(
        published == released,
        "wit/stage.wit differs from the released 1.0.0: a published contract is extended beside, never edited"
    );
}
