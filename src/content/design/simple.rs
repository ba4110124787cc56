//! 심플: white paper, one large title, the brand's colour in one field.

use super::{details, prize_label};
use crate::content::{
    brief::Brief,
    color::{LEGIBLE, Rgb},
    scene::{Align, HEIGHT, Look, Scene, WIDTH},
    text::{Face, Room, fit},
};

const MARGIN: f32 = 76.0;
/// Where the field of the brand's colour begins.
const FIELD: f32 = 852.0;

pub fn scene(brief: &Brief) -> Scene {
    let (_, chroma, hue) = brief.brand.to_lch();
    let paper = Rgb::from_lch(0.988, chroma.min(0.006), hue);
    let ink = Rgb::from_lch(0.21, chroma.min(0.035), hue);
    let quiet = Rgb::from_lch(0.46, chroma.min(0.03), hue).readable_on(&[paper]);
    let brand = brief.brand.apart_from(&[paper], 1.35);
    let on_brand = if brand.contrast(Rgb::WHITE) >= LEGIBLE {
        Rgb::WHITE
    } else {
        ink.readable_on(&[brand])
    };
    // A circle, tone on tone, on the side that the ink is not.
    let tint = if on_brand.is_lighter_than(brand) {
        Rgb::BLACK
    } else {
        Rgb::WHITE
    };
    let circle = brand.under(tint, 0.12);

    let mut scene = Scene::default();
    scene.shape(format_args!("<rect width='{WIDTH}' height='{HEIGHT}' fill='{paper}'/>"));
    scene.shape(format_args!(
        "<rect x='{FIELD}' width='{}' height='{HEIGHT}' fill='{brand}'/>",
        WIDTH as f32 - FIELD
    ));
    scene.shape(format_args!(
        "<clipPath id='field'><rect x='{FIELD}' width='400' height='{HEIGHT}'/></clipPath>"
    ));
    scene.shape(format_args!(
        "<circle cx='1200' cy='628' r='330' fill='{circle}' clip-path='url(#field)'/>"
    ));

    let left = |face, fill| Look {
        face,
        fill,
        align: Align::Left,
        turned: None,
    };
    let width = FIELD - 2.0 * MARGIN + 16.0;
    masthead(&mut scene, brief, brand, paper, ink);

    let foot = details(brief, width);
    let foot_top = 570.0 - foot.height();
    scene.block(&foot, [MARGIN, foot_top], left(Face::Regular, quiet));

    // Between the masthead and the foot, with the bar above it.
    let (highest, lowest) = (176.0, foot_top - 36.0);
    let title = fit(
        &brief.title,
        Face::Heavy,
        &Room {
            width,
            height: lowest - highest,
            sizes: 36.0..=96.0,
        },
    );
    let top = f32::midpoint(highest, lowest) - title.height() / 2.0;
    scene.shape(format_args!(
        "<rect x='{MARGIN}' y='{}' width='56' height='8' rx='4' fill='{brand}'/>",
        top - 40.0
    ));
    scene.block(&title, [MARGIN, top], left(Face::Heavy, ink));

    field(&mut scene, brief, left(Face::Heavy, on_brand));
    scene
}

/// The store's logo, or its initial in a disc, and its name.
fn masthead(scene: &mut Scene, brief: &Brief, brand: Rgb, paper: Rgb, ink: Rgb) {
    let x = match (&brief.logo, &brief.store) {
        (Some(logo), _) => MARGIN + scene.logo(logo, [MARGIN, 84.0], 72.0, 230.0, paper) + 18.0,
        (None, Some(_)) => {
            disc(scene, brief, brand, paper);
            MARGIN + 70.0
        }
        (None, None) => return,
    };
    let Some(store) = &brief.store else { return };
    let name = fit(store, Face::Heavy, &Room::line(FIELD - 80.0 - x, 22.0..=30.0));
    let look = Look {
        face: Face::Heavy,
        fill: ink,
        align: Align::Left,
        turned: None,
    };
    scene.line(&name.lines.concat(), name.size, [x, 84.0 + name.size * 0.35], look);
}

fn disc(scene: &mut Scene, brief: &Brief, brand: Rgb, paper: Rgb) {
    scene.shape(format_args!(
        "<circle cx='{}' cy='84' r='26' fill='{brand}'/>",
        MARGIN + 26.0
    ));
    let look = Look {
        face: Face::Heavy,
        fill: paper.readable_on(&[brand]),
        align: Align::Center,
        turned: None,
    };
    scene.line(&brief.initial(), 27.0, [MARGIN + 26.0, 93.5], look);
}

/// The prize in the brand's field; without one, only the shapes are there.
fn field(scene: &mut Scene, brief: &Brief, look: Look) {
    let Some(prize) = &brief.prize else {
        let look = Look {
            align: Align::Center,
            ..look
        };
        scene.line(
            &brief.initial(),
            190.0,
            [f32::midpoint(FIELD, WIDTH as f32), 380.0],
            look,
        );
        return;
    };
    let x = FIELD + 48.0;
    let room = Room {
        width: WIDTH as f32 - x - 44.0,
        height: 360.0,
        sizes: 27.0..=54.0,
    };
    let block = fit(prize, Face::Heavy, &room);
    let top = 330.0 - block.height() / 2.0;
    scene.line(
        prize_label(brief),
        24.0,
        [x, top - 44.0],
        Look {
            face: Face::Regular,
            ..look
        },
    );
    scene.shape(format_args!(
        "<rect x='{x}' y='{}' width='40' height='2' fill='{}'/>",
        top - 26.0,
        look.fill
    ));
    scene.block(&block, [x, top], look);
}
