//! Pictures of what was measured: lines in SVG, made from `benchmarks.json` and nothing else.
//!
//! Drawn here and not by a library: it is one kind of picture, and the library that everybody takes (plotters) has
//! had no release in two years.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Of the plot within the picture: left, right, top, bottom.
const EDGES: (f64, f64, f64, f64) = (80.0, 560.0, 50.0, 340.0);
/// Lines are told apart by their dashes and labels, not by colour alone.
const STROKES: [(&str, &str); 4] = [
    ("#0b5fa5", "none"),
    ("#b3440c", "8 4"),
    ("#2d7d32", "2 3"),
    ("#6a3d9a", "10 3 2 3"),
];

/// A line, with its name.
pub struct Line {
    pub name: String,
    /// Ascending by x.
    pub points: Vec<(f64, f64)>,
}

/// How numbers become places on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// In powers of ten.
    Log,
}

/// A picture of lines over one pair of axes.
pub fn draw(title: &str, (x_name, x_scale): (&str, Scale), y_name: &str, lines: &[Line]) -> String {
    let of = |pick: fn(&(f64, f64)) -> f64| lines.iter().flat_map(|line| &line.points).map(pick);
    let x = Axis::new(x_scale, of(|point| point.0), (EDGES.0, EDGES.1));
    let y = Axis::new(Scale::Linear, of(|point| point.1), (EDGES.3, EDGES.2));
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<title>{title}</title>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{}" y="28" font-size="15" font-weight="bold">{title}</text>
<text x="{}" y="{}" text-anchor="middle">{x_name}</text>
<text transform="translate(18 {}) rotate(-90)" text-anchor="middle">{y_name}</text>
"##,
        EDGES.0,
        f64::midpoint(EDGES.0, EDGES.1),
        EDGES.3 + 42.0,
        f64::midpoint(EDGES.2, EDGES.3),
    );
    let _ = writeln!(
        svg,
        r##"<path d="M{} {}V{}H{}" fill="none" stroke="#222222"/>"##,
        EDGES.0, EDGES.2, EDGES.3, EDGES.1
    );
    for tick in x.ticks() {
        let at = x.place(tick);
        let _ = writeln!(
            svg,
            r#"<text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#,
            EDGES.3 + 20.0,
            short(tick)
        );
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        let _ = writeln!(
            svg,
            r##"<path d="M{} {at:.1}H{}" stroke="#dddddd"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>"##,
            EDGES.0,
            EDGES.1,
            EDGES.0 - 8.0,
            at + 4.0,
            short(tick)
        );
    }
    for (line, (colour, dashes)) in lines.iter().zip(STROKES.iter().cycle()) {
        let places: Vec<_> = line
            .points
            .iter()
            .map(|(at, value)| (x.place(*at), y.place(*value)))
            .collect();
        let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(
            svg,
            r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>"#,
            path.join("L")
        );
        for (x, y) in &places {
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#);
        }
        if let Some((x, y)) = places.last() {
            let _ = writeln!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" fill="{colour}">{}</text>"#,
                x + 8.0,
                y + 4.0,
                line.name
            );
        }
    }
    svg + "</svg>\n"
}

struct Axis {
    scale: Scale,
    /// The numbers at its ends.
    ends: (f64, f64),
    /// The places of its ends.
    span: (f64, f64),
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>, span: (f64, f64)) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            low = low.min(value);
            high = high.max(value);
        }
        let ends = match scale {
            Scale::Linear => (0.0, (high / step(high)).ceil() * step(high)),
            Scale::Log => (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil())),
        };
        Self { scale, ends, span }
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.ends.0) / (self.ends.1 - self.ends.0),
            Scale::Log => (value / self.ends.0).log10() / (self.ends.1 / self.ends.0).log10(),
        };
        self.span.0 + part * (self.span.1 - self.span.0)
    }

    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.ends;
        match self.scale {
            Scale::Linear => {
                let step = step(high);
                (0..=(high / step).round() as u32)
                    .map(|n| f64::from(n) * step)
                    .collect()
            }
            Scale::Log => (low.log10().round() as i32..=high.log10().round() as i32)
                .map(|power| 10_f64.powi(power))
                .collect(),
        }
    }
}

/// Between two ticks, so that there are four to ten of them up to `high`: 1, 2 or 5 times a power of ten.
fn step(high: f64) -> f64 {
    let power = 10_f64.powf((high / 10.0).log10().floor());
    let fitting = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| high / step <= 10.0);
    fitting.unwrap_or(power * 10.0)
}

/// `1500000` as `1.5M`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}
