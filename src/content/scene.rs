//! A picture before it is drawn: shapes as SVG, and above them texts, kept apart so that a test can compare
//! each text with the pixels that lie under it.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, LazyLock},
};

use resvg::{
    tiny_skia::{FilterQuality, Pixmap, PixmapPaint, Transform},
    usvg::{self, fontdb},
};

use super::{
    color::Rgb,
    logo::Logo,
    text::{ASCENT, Block, Face, LEADING},
};

/// Width of every image, in pixels.
pub const WIDTH: u32 = 1200;
/// Height of every image, in pixels.
pub const HEIGHT: u32 = 628;

/// Around a logo on its tile, of the tile's height.
const TILE_PADDING: f32 = 0.16;

/// A contrast at which a tile would look like a mistake.
const NEARLY_THE_SAME: f64 = 1.1;

/// Where a line of text lies against its `x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// It begins there.
    Left,
    /// Its middle is there.
    Center,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Look {
    pub face: Face,
    pub fill: Rgb,
    pub align: Align,
    /// Degrees clockwise about the point of the image.
    pub turned: Option<(f32, [f32; 2])>,
}

/// One line of text.
#[derive(Debug, Clone)]
pub struct Line {
    /// Not escaped.
    pub text: String,
    /// In pixels, of the em square.
    pub size: f32,
    /// By [`Look::align`], and of the baseline.
    pub at: [f32; 2],
    /// Face, colour and direction.
    pub look: Look,
}

/// A picture of [`WIDTH`] x [`HEIGHT`].
#[derive(Debug, Default)]
pub struct Scene {
    shapes: String,
    lines: Vec<Line>,
    /// And where it is: left, top, width and height.
    logo: Option<(Logo, [f32; 4])>,
}

/// Why a scene could not be drawn: a fault of a design, not of what it was given.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The design wrote no SVG.
    #[error("the design is not valid svg")]
    Svg(#[from] usvg::Error),
    /// The pixels could not be encoded.
    #[error("the image could not be encoded as png")]
    Png(String),
}

impl Scene {
    /// Adds SVG elements. Only for what the program itself writes: nothing is escaped.
    pub fn shape(&mut self, svg: fmt::Arguments<'_>) {
        self.shapes.write_fmt(svg).expect("writing to a String cannot fail");
        self.shapes.push('\n');
    }

    /// Adds one line of text, its baseline at `at`.
    pub fn line(&mut self, text: &str, size: f32, at: [f32; 2], look: Look) {
        self.lines.push(Line {
            text: text.to_owned(),
            size,
            at,
            look,
        });
    }

    /// Adds a block of text, whose letters begin at the top `at`.
    pub fn block(&mut self, block: &Block, at: [f32; 2], look: Look) {
        let mut baseline = at[1] + block.size * ASCENT;
        for text in &block.lines {
            self.line(text, block.size, [at[0], baseline], look);
            baseline += block.size * LEADING;
        }
    }

    /// Adds the logo on a tile of its own, whose left middle is at `at` and which is `height` pixels high and at
    /// most `widest` wide; returns its width. On a `ground` that is as white as the tile would be there is none.
    pub fn logo(&mut self, logo: &Logo, at: [f32; 2], height: f32, widest: f32, ground: Rgb) -> f32 {
        let padding = height * TILE_PADDING;
        let [w, h] = logo.fit(widest - 2.0 * padding, height - 2.0 * padding);
        let width = Self::tile_width(logo, height, widest);
        let ([x, y], tile) = (at, logo.tile());
        if tile.contrast(ground) > NEARLY_THE_SAME {
            self.shape(format_args!(
                "<rect x='{x}' y='{}' width='{width}' height='{height}' rx='{}' fill='{tile}'/>",
                y - height / 2.0,
                height * 0.2
            ));
        }
        self.logo = Some((logo.clone(), [x + padding, y - h / 2.0, w, h]));
        width
    }

    /// Where the logo is, if there is one: left, top, width and height.
    pub fn logo_box(&self) -> Option<[f32; 4]> {
        self.logo.as_ref().map(|(_, place)| *place)
    }

    /// How wide the tile of a logo will be.
    pub fn tile_width(logo: &Logo, height: f32, widest: f32) -> f32 {
        let padding = height * TILE_PADDING;
        let [width, _] = logo.fit(widest - 2.0 * padding, height - 2.0 * padding);
        width + 2.0 * padding
    }

    /// The lines, in the order in which they are drawn.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The picture as SVG; without the texts, what lies under them.
    pub fn svg(&self, with_texts: bool) -> String {
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}'>\n{}",
            self.shapes
        );
        for line in self.lines.iter().filter(|_| with_texts) {
            write_line(&mut svg, line).expect("writing to a String cannot fail");
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The picture's pixels.
    pub fn pixels(&self, with_texts: bool) -> Result<Pixmap, DrawError> {
        static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
            let mut fonts = fontdb::Database::new();
            for face in Face::ALL {
                fonts.load_font_source(fontdb::Source::Binary(Arc::new(face.bytes())));
            }
            Arc::new(fonts)
        });
        let options = usvg::Options {
            fontdb: Arc::clone(&FONTS),
            ..usvg::Options::default()
        };
        let tree = usvg::Tree::from_str(&self.svg(with_texts), &options)?;
        let mut pixels = Pixmap::new(WIDTH, HEIGHT).expect("the size is not zero");
        resvg::render(&tree, Transform::identity(), &mut pixels.as_mut());
        if let Some((logo, [x, y, width, _])) = &self.logo {
            let scale = width / logo.pixels().width() as f32;
            let paint = PixmapPaint {
                quality: FilterQuality::Bicubic,
                ..PixmapPaint::default()
            };
            let place = Transform::from_row(scale, 0.0, 0.0, scale, *x, *y);
            pixels.draw_pixmap(0, 0, logo.pixels().as_ref(), &paint, place, None);
        }
        Ok(pixels)
    }

    /// The picture as PNG.
    pub fn png(&self) -> Result<Vec<u8>, DrawError> {
        self.pixels(true)?
            .encode_png()
            .map_err(|e| DrawError::Png(e.to_string()))
    }
}

fn write_line(svg: &mut String, line: &Line) -> fmt::Result {
    let (family, weight) = match line.look.face {
        Face::Regular => ("NanumSquare", 400),
        Face::Heavy => ("NanumSquare", 800),
        Face::Serif => ("NanumMyeongjo", 700),
    };
    let anchor = match line.look.align {
        Align::Left => "start",
        Align::Center => "middle",
    };
    let ([x, y], size, fill) = (line.at, line.size, line.look.fill);
    write!(
        svg,
        "<text x='{x}' y='{y}' font-family='{family}' font-weight='{weight}' font-size='{size}' fill='{fill}' \
         text-anchor='{anchor}' xml:space='preserve'"
    )?;
    if let Some((degrees, [cx, cy])) = line.look.turned {
        write!(svg, " transform='rotate({degrees} {cx} {cy})'")?;
    }
    svg.push('>');
    for c in line.text.chars() {
        match c {
            '<' => svg.push_str("&lt;"),
            '>' => svg.push_str("&gt;"),
            '&' => svg.push_str("&amp;"),
            c => svg.push(c),
        }
    }
    svg.push_str("</text>\n");
    Ok(())
}
