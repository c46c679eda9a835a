//! Cost against flows and against services, drawn as SVG: two pictures without a script or a font of their own.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cases::{self, Case, Kind};
use crate::report::{Line, Report};
use crate::scenario::Scenario;
use crate::stats::Spread;

const FLOWS: [(u64, &str); 7] = [
    (1, "1-flow"),
    (1 << 8, "256-flows"),
    (1 << 12, "4k-flows"),
    (1 << 14, "16k-flows"),
    (1 << 16, "64k-flows"),
    (1 << 18, "256k-flows"),
    (1 << 20, "1m-flows"),
];
const SERVICES: [(u32, &str); 5] = [
    (1, "services-1"),
    (10, "services-10"),
    (100, "services-100"),
    (1000, "services-1000"),
    (10_000, "services-10000"),
];

/// What the pictures show: more points than the table.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, scenario) in cases::modes() {
        let point = |(flows, name)| Case::new(group, name, scenario, Kind::Established, flows);
        cases.extend(FLOWS.map(point));
    }
    for (services, group) in SERVICES {
        cases.extend(cases::of_services(group, services));
    }
    cases
}

/// Draws into `docs/bench`.
pub(crate) fn write(report: &Report) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let below = format!("{}, Linux {}", report.machine.cpu, report.machine.kernel);
    let find = |case: &str| report.cases.iter().find(|line| line.case == case);

    let label = |scenario: &Scenario, group: &str| match scenario.growth() {
        0 => format!("l2, IPv{}", if scenario.vip_v6 { 6 } else { 4 }),
        _ => format!("ipip, IPv{} in IPv{}", &group[6..7], &group[8..9]),
    };
    let mut series: Vec<Series> = Vec::new();
    for (group, scenario) in cases::modes() {
        let points = FLOWS.iter().filter_map(|(flows, name)| {
            let line = find(&format!("{group}/{name}"))?;
            Some((*flows as f64, line.cost.net))
        });
        series.push(Series::new(label(&scenario, group), points.collect()));
    }
    series.push(floor(
        "floor, IPv4",
        &FLOWS.map(|(x, name)| (x as f64, find(&format!("ipip-v4v4/{name}")))),
    ));
    series.push(floor(
        "floor, IPv6",
        &FLOWS.map(|(x, name)| (x as f64, find(&format!("ipip-v6v6/{name}")))),
    ));
    let title = "Cost of a packet against the number of flows";
    let svg = draw(title, "flows, in turn", &below, &series);
    fs::write(folder.join("flows.svg"), svg)?;

    let mut series = Vec::new();
    for (label, packets) in [
        ("to one, 1 flow", "1-flow"),
        ("to one, 1 M flows", "1m-flows"),
        ("to all, 1 M flows", "1m-flows-to-all"),
    ] {
        let points = SERVICES.iter().filter_map(|(services, group)| {
            // With one service, all is one.
            let packets = if *services == 1 {
                packets.trim_end_matches("-to-all")
            } else {
                packets
            };
            let line = find(&format!("{group}/{packets}"))?;
            Some((f64::from(*services), line.cost.net))
        });
        series.push(Series::new(label.to_owned(), points.collect()));
    }
    series.push(floor(
        "floor, 1 M flows",
        &SERVICES.map(|(x, group)| (f64::from(x), find(&format!("{group}/1m-flows")))),
    ));
    let title = "Cost of a packet against the number of services";
    let svg = draw(title, "services; ipip, IPv4 in IPv4", &below, &series);
    fs::write(folder.join("services.svg"), svg)?;
    eprintln!("drawn: docs/bench/flows.svg, docs/bench/services.svg");
    Ok(())
}

fn floor(label: &str, lines: &[(f64, Option<&Line>)]) -> Series {
    let points = lines
        .iter()
        .filter_map(|(x, line)| Some((*x, line.as_ref()?.floor.net)));
    Series {
        is_floor: true,
        ..Series::new(label.to_owned(), points.collect())
    }
}

struct Series {
    label: String,
    points: Vec<(f64, Spread)>,
    is_floor: bool,
}

impl Series {
    fn new(label: String, points: Vec<(f64, Spread)>) -> Self {
        Self {
            label,
            points,
            is_floor: false,
        }
    }
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 56.0;
/// Room for the labels at the lines' ends.
const RIGHT: f64 = WIDTH - 150.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = HEIGHT - 64.0;
/// Of Okabe and Ito, told apart by the colour-blind too.
const COLOURS: [&str; 6] = ["#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7"];

/// Lines over a logarithmic axis, each with its quartiles as bars and its label at its end.
fn draw(title: &str, below_axis: &str, footer: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let most_x = points().map(|(x, _)| *x).fold(1.0, f64::max).log2();
    let most_y = points().map(|(_, y)| y.high).fold(1.0, f64::max);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        .into_iter()
        .find(|step| most_y / step <= 8.0);
    let step = step.unwrap_or(200.0);
    let top = (most_y / step).ceil() * step;
    let x = |value: f64| LEFT + value.log2() / most_x * (RIGHT - LEFT);
    let y = |value: f64| BOTTOM - value / top * (BOTTOM - TOP);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"Helvetica, Arial, sans-serif\" \
         font-size=\"13\" fill=\"#333\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"48\" fill=\"#666\">ns a packet, without the wrapper; bars: between the quartiles</text>\n\
         <text x=\"{LEFT}\" y=\"{}\" fill=\"#666\" font-size=\"11\">{footer}</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{below_axis}</text>\n",
        HEIGHT - 10.0,
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 38.0,
    );
    for tick in 0..=(top / step) as u32 {
        let value = f64::from(tick) * step;
        let at = y(value);
        _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for value in ticks {
        _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(value),
            BOTTOM + 18.0,
            short(value)
        );
    }
    let ends = series
        .iter()
        .map(|series| series.points.last().map_or(0.0, |(_, end)| y(end.median)));
    let labels = spread_out(&ends.collect::<Vec<_>>());
    let mut colours = COLOURS.iter().cycle();
    for (series, label_y) in series.iter().zip(labels) {
        let (colour, dash) = if series.is_floor {
            ("#888", " stroke-dasharray=\"5 4\"")
        } else {
            (*colours.next().unwrap_or(&"#000"), "")
        };
        let path: Vec<String> = series
            .points
            .iter()
            .map(|(at, cost)| format!("{:.1},{:.1}", x(*at), y(cost.median)))
            .collect();
        _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        );
        for (at, cost) in series.points.iter().filter(|_| !series.is_floor) {
            _ = writeln!(
                svg,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"{colour}\"/>\
                 <circle cx=\"{0:.1}\" cy=\"{3:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*at),
                y(cost.low),
                y(cost.high),
                y(cost.median)
            );
        }
        let end = series.points.last().map_or(0.0, |(_, end)| end.median);
        _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{} ({end:.0})</text>",
            RIGHT + 10.0,
            label_y + 4.0,
            series.label
        );
    }
    svg + "</svg>\n"
}

/// Moves labels apart, so that none covers another, in the order in which their lines end.
fn spread_out(ends: &[f64]) -> Vec<f64> {
    const LINE: f64 = 16.0;
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|a, b| ends[*a].total_cmp(&ends[*b]));
    let mut places = ends.to_vec();
    // From below up, so that the lowest stays above the axis; each keeps its distance from the one beneath.
    let mut limit = BOTTOM;
    for index in order.into_iter().rev() {
        places[index] = places[index].min(limit);
        limit = places[index] - LINE;
    }
    places
}

fn short(value: f64) -> String {
    let value = value as u64;
    match value {
        0x0010_0000.. => format!("{} M", value >> 20),
        10_000 => "10,000".to_owned(),
        1024.. if value.is_power_of_two() => format!("{} K", value >> 10),
        1000 => "1,000".to_owned(),
        _ => value.to_string(),
    }
}
