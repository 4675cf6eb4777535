//! Bars with their spread, as SVG.

use std::fmt::Write as _;

use crate::comparison::{ContestantResult, Metric, Outcome};
use crate::statistics::Summary;

const WIDTH: f64 = 760.0;
const NAME_WIDTH: f64 = 190.0;
const VALUE_WIDTH: f64 = 150.0;
const ROW_HEIGHT: f64 = 34.0;
const TOP: f64 = 48.0;

/// A bar as long as the median for each contestant, and a whisker from the least to the most; ours is marked.
pub fn draw(outcome: &Outcome, metric: Metric) -> String {
    let summary = |result: &'_ ContestantResult| result.summaries.get(&metric).cloned();
    let rows: Vec<(&str, Summary)> =
        outcome.results.iter().filter_map(|result| Some((&*result.name, summary(result)?))).collect();
    let most = rows.iter().map(|(_, summary)| summary.most).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAME_WIDTH - VALUE_WIDTH) / most;
    let height = TOP + ROW_HEIGHT * rows.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}: {}</text>\n",
        escape(&outcome.name),
        metric.title(),
    );
    for (number, (name, summary)) in rows.iter().enumerate() {
        let top = TOP + ROW_HEIGHT * number as f64;
        let (middle, baseline) = (top + 12.0, top + 17.0);
        let color = if number == 0 { "#1f6f8b" } else { "#b8c4cc" };
        let (least, end) = (NAME_WIDTH + summary.least * scale, NAME_WIDTH + summary.most * scale);
        // Written to a string, which cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{NAME_WIDTH}\" y=\"{top}\" width=\"{:.1}\" height=\"24\" fill=\"{color}\"/>\n\
             <path d=\"M{least:.1} {middle}H{end:.1}M{least:.1} {}v8M{end:.1} {}v8\" stroke=\"#333\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
            NAME_WIDTH - 8.0,
            escape(name),
            summary.median * scale,
            middle - 4.0,
            middle - 4.0,
            end + 8.0,
            metric.show(summary.median),
        );
    }
    svg += "</svg>\n";
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
