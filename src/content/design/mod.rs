//! The three designs. Each is a function of the brief alone: the same job always gives the same pixels.

mod fancy;
mod simple;
mod trendy;

use super::{
    brief::Brief,
    scene::Scene,
    text::{Block, Face, Room, fit},
};
use crate::messages::ImageStyle;

/// The picture of a brief in one style.
pub fn scene(brief: &Brief, style: ImageStyle) -> Scene {
    match style {
        ImageStyle::Simple => simple::scene(brief),
        ImageStyle::Fancy => fancy::scene(brief),
        ImageStyle::Trendy => trendy::scene(brief),
    }
}

/// What stands above the prize.
fn prize_label(brief: &Brief) -> &'static str {
    if brief.is_korean() { "경품" } else { "PRIZE" }
}

/// The store's details: on one line if they fit, else each on its own.
fn details(brief: &Brief, width: f32) -> Block {
    let sizes = 20.0..=24.0;
    let joined = brief.details.join("  ·  ");
    if Face::Regular.width(&joined, *sizes.start()) <= width {
        return fit(&joined, Face::Regular, &Room::line(width, sizes));
    }
    let fitted = brief
        .details
        .iter()
        .map(|d| fit(d, Face::Regular, &Room::line(width, 20.0..=20.0)));
    Block {
        size: 20.0,
        lines: fitted.flat_map(|block| block.lines).collect(),
    }
}

#[cfg(test)]
mod tests;
