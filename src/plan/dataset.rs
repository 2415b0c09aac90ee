//! Request sizes out of a CSV trace with the columns of the Azure LLM inference trace.

use super::RequestSize;
use std::path::Path;

/// Why a dataset cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// There is nothing in it.
    #[error(
        "{path} holds no requests; expected a CSV file with the columns ContextTokens and GeneratedTokens"
    )]
    Empty {
        /// The file.
        path: String,
    },
    /// A column is missing.
    #[error("{path}:1: the column {column} is missing; the header has: {found}")]
    Column {
        /// The file.
        path: String,
        /// The missing column.
        column: &'static str,
        /// What the header has.
        found: String,
    },
    /// A value is wrong.
    #[error("{path}:{line}: column {column}: '{value}' is not {expected}")]
    Value {
        /// The file.
        path: String,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// The file is no CSV.
    #[error("{path}:{line}: {reason}")]
    Csv {
        /// The file.
        path: String,
        /// The line, from 1.
        line: u64,
        /// What the CSV reader says.
        reason: String,
    },
}

/// The most tokens that one request of a trace may have.
const MAX_TOKENS: u32 = 10_000_000;

/// Reads the sizes in `bytes`, which came from `path`. Requests without output tokens (failures in
/// the traced service) are left out.
///
/// # Errors
/// Names file, line and column of the first thing that is wrong.
pub fn read_dataset(path: &Path, bytes: &[u8]) -> Result<Vec<RequestSize>, DatasetError> {
    let shown = path.display().to_string();
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().map_err(|error| csv_error(&shown, &error))?.clone();
    if header.iter().all(str::is_empty) {
        return Err(DatasetError::Empty { path: shown });
    }
    let column = |name: &'static str| {
        header.iter().position(|cell| cell.trim_start_matches('\u{feff}') == name).ok_or_else(|| {
            DatasetError::Column {
                path: shown.clone(),
                column: name,
                found: header.iter().collect::<Vec<_>>().join(", "),
            }
        })
    };
    let (input, output) = (column("ContextTokens")?, column("GeneratedTokens")?);
    let mut sizes = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| csv_error(&shown, &error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let tokens = |index: usize, column: &'static str, least: u32| {
            let value = record.get(index).unwrap_or_default();
            let parsed = value.parse::<u32>().ok().filter(|n| (least..=MAX_TOKENS).contains(n));
            parsed.ok_or_else(|| DatasetError::Value {
                path: shown.clone(),
                line,
                column,
                value: value.to_owned(),
                expected: "a whole number of tokens",
            })
        };
        let size = RequestSize {
            input: tokens(input, "ContextTokens", 1)?,
            output: tokens(output, "GeneratedTokens", 0)?,
        };
        if size.output > 0 {
            sizes.push(size);
        }
    }
    if sizes.is_empty() { Err(DatasetError::Empty { path: shown }) } else { Ok(sizes) }
}

fn csv_error(path: &str, error: &csv::Error) -> DatasetError {
    let line = error.position().map_or(1, csv::Position::line);
    DatasetError::Csv { path: path.to_owned(), line, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<RequestSize>, DatasetError> {
        read_dataset(Path::new("t.csv"), text.as_bytes())
    }

    #[test]
    fn the_columns_of_the_azure_trace_are_read_in_any_order() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,109\n";
        let expected = vec![RequestSize { input: 374, output: 44 }, RequestSize { input: 396, output: 109 }];
        assert_eq!(read(text).unwrap(), expected);
        let swapped = "GeneratedTokens,ContextTokens\r\n44,374\r\n0,5\r\n";
        assert_eq!(read(swapped).unwrap(), expected[..1]);
    }

    #[test]
    fn a_wrong_value_names_file_line_and_column() {
        let message =
            read("TIMESTAMP,ContextTokens,GeneratedTokens\na,1,2\nb,x,2\n").unwrap_err().to_string();
        assert_eq!(message, "t.csv:3: column ContextTokens: 'x' is not a whole number of tokens");
    }

    #[test]
    fn empty_and_malformed_files_are_refused() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        assert!(matches!(read(""), Err(DatasetError::Empty { .. })));
        assert!(matches!(read(header), Err(DatasetError::Empty { .. })));
        assert!(matches!(read("a,b\n1,2\n"), Err(DatasetError::Column { column: "ContextTokens", .. })));
        assert!(matches!(read(&format!("{header}a,1\n")), Err(DatasetError::Csv { line: 2, .. })));
        for value in ["-1", "1.5", "99999999999", "", "NaN", "0"] {
            assert!(
                matches!(read(&format!("{header}a,{value},5\n")), Err(DatasetError::Value { line: 2, .. })),
                "{value}"
            );
        }
        assert!(read_dataset(Path::new("t.csv"), &[0xff, 0xfe, b'\n', 1]).is_err());
    }
}
