//! A ring on one slide: what each node owns, how even that is, and what moves when a node joins.
//!
//! ```sh
//! cargo run --release --example ring_picture -- --nodes 8 --output ring.svg
//! cargo run --example ring_picture -- --nodes 5 --weights 1,1,2 --virtual-nodes 160 --join big=4
//! cargo run --release --example ring_picture -- --balanced --output balanced.svg
//! ```

use std::{error::Error, f64::consts::TAU, fmt::Write as _, fs, path::PathBuf};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use ringpact::ring::{HashRing, Node, Placement};

/// Maximum number of nodes. More would leave no room for their names.
const MAX_NODES: u64 = 32;
/// Number of characters that fit beside a bar, weight included.
const MAX_LABEL: usize = 13;

#[derive(Parser)]
#[command(about = "Draws a ring as an SVG: ownership, balance, and what moves when a node joins")]
struct Arguments {
    /// Number of nodes, which are named node-1, node-2 and so on.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=MAX_NODES))]
    nodes: u64,

    /// Weights of the nodes, in order. If there are fewer weights than nodes, they repeat.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    weights: Vec<u32>,

    /// Virtual nodes for each unit of weight.
    #[arg(long, default_value_t = 32)]
    virtual_nodes: u32,

    /// Use balanced placement: tokens are assigned to even out what the nodes own, instead of
    /// hashed.
    #[arg(long)]
    balanced: bool,

    /// The node that joins: a name, or name=weight.
    #[arg(long, default_value = "newcomer")]
    join: String,

    /// Path of the picture to write.
    #[arg(long, default_value = "ring.svg")]
    output: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let nodes = (1..=arguments.nodes)
        .zip(arguments.weights.iter().cycle())
        .map(|(number, weight)| Node::new(format!("node-{number}")).with_weight(*weight));
    let placement = if arguments.balanced { Placement::Balanced } else { Placement::Hashed };
    let builder = HashRing::builder().placement(placement).virtual_nodes(arguments.virtual_nodes);
    let before = builder.nodes(nodes).build()?;
    let newcomer = match arguments.join.split_once('=') {
        Some((name, weight)) => Node::new(name).with_weight(weight.parse()?),
        None => Node::new(arguments.join.as_str()),
    };
    let mut after = before.clone();
    after.add(newcomer.clone())?;

    let facts = Facts::gather(&before, &after, newcomer)?;
    fs::write(&arguments.output, draw(&facts))?;
    println!("{}", facts.table());
    println!(
        "max/mean {:.3}; {:.2} % of all keys move, {:.2} % would be fair. The picture is in {}.",
        facts.max_over_mean(),
        100.0 * facts.moved(),
        100.0 * facts.newcomer_fair,
        arguments.output.display()
    );
    Ok(())
}

/// The facts that both the picture and the table show.
struct Facts {
    members: Vec<Member>,
    newcomer: Node,
    newcomer_fair: f64,
    virtual_nodes: u32,
    /// Ownership before the join, clockwise: start, end, number of the member. Arcs that touch and
    /// have one owner are one.
    arcs: Vec<(f64, f64, usize)>,
    /// Start and end of each range that goes to the newcomer.
    moves: Vec<(f64, f64)>,
}

struct Member {
    node: Node,
    tokens: usize,
    /// Share of the circle, of which `given` goes to the newcomer.
    share: f64,
    given: f64,
    fair: f64,
}

impl Facts {
    fn gather(before: &HashRing, after: &HashRing, newcomer: Node) -> Result<Self, Box<dyn Error>> {
        let weight = |ring: &HashRing| ring.nodes().iter().map(|node| f64::from(node.weight())).sum::<f64>();
        let mut nodes = before.nodes().to_vec();
        // By number, as a reader expects: node-2 before node-10.
        nodes.sort_by_key(|node| (node.id().as_str().len(), node.id().clone()));
        let mut members: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                let fair = f64::from(node.weight()) / weight(before);
                Member { node, tokens: 0, share: 0.0, given: 0.0, fair }
            })
            .collect();
        let number_of = |members: &[Member], node: &Node| members.iter().position(|member| member.node == *node);

        let mut arcs: Vec<(f64, f64, usize)> = Vec::new();
        let mut start = 0.0;
        for token in before.tokens() {
            let owner = number_of(&members, token.node).ok_or("a token without a member")?;
            let end = token.position.as_fraction();
            members[owner].tokens += 1;
            members[owner].share += end - start;
            match arcs.last_mut() {
                Some((_, last_end, last)) if *last == owner => *last_end = end,
                _ => arcs.push((start, end, owner)),
            }
            start = end;
        }
        // What is beyond the last token belongs to the owner of the first.
        if let Some((_, _, first)) = arcs.first().copied() {
            members[first].share += 1.0 - start;
            arcs.push((start, 1.0, first));
        }

        let mut moves = Vec::new();
        for moved in before.movement(after)?.ranges() {
            let from = number_of(&members, moved.from).ok_or("a move from a node that is no member")?;
            members[from].given += moved.range.fraction();
            let (start, width) = (moved.range.start.as_fraction(), moved.range.fraction());
            moves.push((start, start + width));
        }
        let newcomer_fair = f64::from(newcomer.weight()) / weight(after);
        Ok(Self { members, newcomer, newcomer_fair, virtual_nodes: before.virtual_nodes(), arcs, moves })
    }

    fn moved(&self) -> f64 {
        self.members.iter().map(|member| member.given).sum()
    }

    /// Returns the largest ratio of a share to the share that is fair for the weight.
    fn max_over_mean(&self) -> f64 {
        self.members.iter().map(|member| member.share / member.fair).fold(0.0, f64::max)
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["node", "weight", "tokens", "share", "of fair", "gives", "keeps"]);
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        for Member { node, tokens, share, given, fair } in &self.members {
            table.add_row([
                node.id().to_string(),
                node.weight().to_string(),
                tokens.to_string(),
                percent(*share),
                format!("{:.3}", share / fair),
                percent(*given),
                percent(share - given),
            ]);
        }
        table.add_row([
            format!("{} (joins)", self.newcomer.id()),
            self.newcomer.weight().to_string(),
            (self.newcomer.weight() * self.virtual_nodes).to_string(),
            percent(self.moved()),
            format!("{:.3}", self.moved() / self.newcomer_fair),
            String::new(),
            percent(self.moved()),
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

const INK: &str = "#1d2129";
const GREY: &str = "#667080";
const PALE: &str = "#e9ecf1";

/// Returns one of the eight hues of Okabe and Ito, which people with any colour vision can tell
/// apart. (Their black is the newcomer's, so a grey replaces it.) Beyond eight nodes they come
/// again lighter, darker and lighter still: then only the names tell the nodes apart.
fn colour(number: usize) -> String {
    const HUES: [(u8, u8, u8); 8] = [
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (204, 121, 167),
        (86, 180, 233),
        (213, 94, 0),
        (240, 228, 66),
        (148, 155, 166),
    ];
    let (red, green, blue) = HUES[number % HUES.len()];
    let (towards, share) = [(0, 0.0), (255, 0.5), (0, 0.4), (255, 0.66)][number / HUES.len() % 4];
    let mix = |part: u8| (f64::from(part) * (1.0 - share) + f64::from(towards) * share).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(red), mix(green), mix(blue))
}

const CENTRE: (f64, f64) = (326.0, 424.0);

/// Draws a part of a band round the centre, between two fractions of the circle. 0 is on top, and
/// it goes clockwise.
fn band(svg: &mut String, (start, end): (f64, f64), (inner, outer): (f64, f64), fill: &str) {
    // Each piece is at most half of the circle, because a whole circle would be an arc from a point
    // to itself.
    let pieces = if end - start > 0.5 { 2 } else { 1 };
    let step = (end - start) / f64::from(pieces);
    for piece in 0..pieces {
        let from = start + step * f64::from(piece);
        let point = |fraction: f64, radius: f64| {
            let (sin, cos) = (fraction * TAU).sin_cos();
            format!("{:.2} {:.2}", CENTRE.0 + radius * sin, CENTRE.1 - radius * cos)
        };
        let to = from + step;
        let _ = writeln!(
            svg,
            r#"<path d="M{} A{outer} {outer} 0 0 1 {} L{} A{inner} {inner} 0 0 0 {} Z" fill="{fill}"/>"#,
            point(from, outer),
            point(to, outer),
            point(to, inner),
            point(from, inner),
        );
    }
}

struct Text<'a> {
    at: (f64, f64),
    size: f64,
    weight: u32,
    fill: &'a str,
    anchor: &'a str,
}

impl Text<'_> {
    fn write(&self, svg: &mut String, text: &str) {
        let Self { at: (x, y), size, weight, fill, anchor } = self;
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            svg,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size:.1}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}">{text}</text>"#
        );
    }
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
    let _ = writeln!(svg, r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" fill="{fill}"/>"#);
}

fn draw(facts: &Facts) -> String {
    let mut svg = String::from(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1280 720" width="1280" height="720" font-family="Inter, 'Helvetica Neue', Arial, sans-serif">
<defs><pattern id="moves" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="5" height="5" fill="#fff" fill-opacity="0.55"/><rect width="2" height="5" fill="#1d2129" fill-opacity="0.55"/></pattern></defs>
<rect width="1280" height="720" fill="#fff"/>
"##,
    );
    let title = Text { at: (60.0, 74.0), size: 33.0, weight: 700, fill: INK, anchor: "start" };
    let plural = if facts.members.len() == 1 { "" } else { "s" };
    let newcomer = label(&facts.newcomer);
    title.write(&mut svg, &format!("A ring of {} node{plural}, and one that joins", facts.members.len()));
    let tokens: usize = facts.members.iter().map(|member| member.tokens).sum();
    Text { at: (60.0, 106.0), size: 17.0, weight: 400, fill: GREY, ..title }.write(
        &mut svg,
        &format!(
            "{} virtual nodes for each unit of weight, {tokens} tokens in all. An arc belongs to the token at its clockwise end.",
            facts.virtual_nodes
        ),
    );
    draw_circle(&mut svg, facts, &newcomer);
    draw_bars(&mut svg, facts, &newcomer);
    svg.push_str("</svg>\n");
    svg
}

fn draw_circle(svg: &mut String, facts: &Facts, newcomer: &str) {
    for (start, end, owner) in &facts.arcs {
        band(svg, (*start, *end), (204.0, 262.0), &colour(*owner));
    }
    band(svg, (0.0, 1.0), (176.0, 196.0), PALE);
    for (start, end) in &facts.moves {
        band(svg, (*start, *end), (176.0, 196.0), INK);
    }
    let line = |dy: f64, size: f64, weight: u32, fill: &'static str| Text {
        at: (CENTRE.0, CENTRE.1 + dy),
        size,
        weight,
        fill,
        anchor: "middle",
    };
    line(-2.0, 58.0, 700, INK).write(svg, &format!("{:.1} %", 100.0 * facts.moved()));
    line(32.0, 17.0, 400, INK).write(svg, "of all keys move,");
    line(55.0, 17.0, 400, INK).write(svg, &format!("every one to {newcomer}"));
    line(86.0, 14.0, 400, GREY).write(svg, &format!("its fair share is {:.1} %", 100.0 * facts.newcomer_fair));
}

fn draw_bars(svg: &mut String, facts: &Facts, newcomer: &str) {
    const LEFT: f64 = 672.0;
    const BARS: f64 = 826.0;
    const BARS_END: f64 = 1_060.0;
    /// Maximum height of all rows together. If they take less, they stand beside the middle of the
    /// circle.
    const HEIGHT: f64 = 440.0;
    let rows = facts.members.len() + 1;
    let row = (HEIGHT / rows as f64).min(48.0);
    let top = CENTRE.1 - 8.0 - row * rows as f64 / 2.0;
    let (bar, size) = (row * 0.66, (row * 0.72).clamp(8.0, 15.0));
    let largest = facts.members.iter().map(|member| member.share.max(member.fair));
    let scale = (BARS_END - BARS) / largest.fold(facts.moved().max(facts.newcomer_fair), f64::max);
    let text = Text { at: (LEFT, 0.0), size, weight: 500, fill: INK, anchor: "start" };

    Text { at: (LEFT, top - 32.0), size: 19.0, weight: 700, ..text }.write(svg, "Share of all keys");
    Text { at: (1_220.0, top - 32.0), size: 19.0, weight: 700, anchor: "end", ..text }
        .write(svg, &format!("max / mean {:.2}", facts.max_over_mean()));

    let figures = |svg: &mut String, middle: f64, end: f64, share: f64, fair: f64| {
        let y = middle + size * 0.36;
        Text { at: (end + 10.0, y), ..text }.write(svg, &format!("{:.1} %", 100.0 * share));
        Text { at: (1_220.0, y), fill: GREY, weight: 400, anchor: "end", ..text }
            .write(svg, &format!("{:.2} of fair", share / fair));
        // The fair share, as a tick a little taller than the bar.
        rectangle(svg, (BARS + fair * scale - 1.0, middle - row * 0.43), (2.0, row * 0.86), INK);
    };
    for (number, Member { node, share, given, fair, .. }) in facts.members.iter().enumerate() {
        let middle = top + row * (number as f64 + 0.5);
        let fill = colour(number);
        rectangle(svg, (LEFT, middle - size * 0.45), (size * 0.9, size * 0.9), &fill);
        Text { at: (LEFT + size * 1.5, middle + size * 0.36), ..text }.write(svg, &label(node));
        rectangle(svg, (BARS, middle - bar / 2.0), (share * scale, bar), &fill);
        rectangle(svg, (BARS + (share - given) * scale, middle - bar / 2.0), (given * scale, bar), "url(#moves)");
        let reach = share.max(*fair);
        figures(svg, middle, BARS + reach * scale, *share, *fair);
    }

    let middle = top + row * (rows as f64 - 0.5);
    rectangle(svg, (LEFT, middle - size * 0.45), (size * 0.9, size * 0.9), INK);
    Text { at: (LEFT + size * 1.5, middle + size * 0.36), weight: 700, ..text }.write(svg, newcomer);
    let mut x = BARS;
    for (number, member) in facts.members.iter().enumerate() {
        rectangle(svg, (x, middle - bar / 2.0), (member.given * scale, bar), &colour(number));
        x += member.given * scale;
    }
    figures(svg, middle, x.max(BARS + facts.newcomer_fair * scale), facts.moved(), facts.newcomer_fair);

    let legend = Text { at: (0.0, 685.0), size: 14.0, weight: 400, fill: GREY, anchor: "start" };
    rectangle(svg, (LEFT, 673.0), (22.0, 14.0), &colour(0));
    rectangle(svg, (LEFT, 673.0), (22.0, 14.0), "url(#moves)");
    Text { at: (LEFT + 30.0, 685.0), ..legend }.write(svg, &format!("goes to {newcomer}"));
    rectangle(svg, (LEFT + 215.0, 671.0), (2.0, 18.0), INK);
    Text { at: (LEFT + 225.0, 685.0), ..legend }.write(svg, "fair share, by weight");
    rectangle(svg, (LEFT + 393.0, 673.0), (22.0, 14.0), INK);
    Text { at: (LEFT + 423.0, 685.0), ..legend }.write(svg, "inner circle: moves");
}

/// Returns the name, cut to fit its place, with the weight unless that is 1.
fn label(node: &Node) -> String {
    let (name, weight) = (node.id().as_str(), node.weight());
    let weight = if weight == 1 { String::new() } else { format!(" ×{weight}") };
    let room = MAX_LABEL.saturating_sub(weight.chars().count()).max(4);
    if name.chars().count() <= room {
        return name.to_owned() + &weight;
    }
    name.chars().take(room - 1).chain(['…']).chain(weight.chars()).collect()
}
