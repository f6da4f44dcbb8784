/// The known word nearest to a misspelt one, when it is near enough to be meant.
package func nearest(_ word: String, among known: some Sequence<String>) -> String? {
    let limit = word.utf8.count <= 4 ? 1 : 2
    return known.map { ($0, distance(word, $0)) }.filter { $0.1 <= limit }.min { $0.1 < $1.1 }?.0
}

/// What an error about an unknown word ends with: the word that was meant, when one is near enough.
package func suggestion(for word: String, among known: some Sequence<String>) -> String {
    nearest(word, among: known).map { "; did you mean '\($0)'?" } ?? ""
}

/// Levenshtein distance, with words beyond 64 bytes counted as far from everything.
private func distance(_ left: String, _ right: String) -> Int {
    let left = Array(left.utf8)
    let right = Array(right.utf8)
    guard left.count <= 64, right.count <= 64 else { return .max }
    var row = Array(0...right.count)
    for (i, a) in left.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, b) in right.enumerated() {
            let substituted = diagonal + (a == b ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(substituted, diagonal + 1, row[j] + 1)
        }
    }
    return row[right.count]
}

/// A word of a file as it may be repeated in a message: short, printable ASCII, anything else as `\u{…}`.
package func shown(_ word: String) -> String {
    var text = ""
    for scalar in word.unicodeScalars.prefix(40) {
        text += (0x20..<0x7F).contains(scalar.value) ? String(scalar) : "\\u{\(String(scalar.value, radix: 16))}"
    }
    return word.unicodeScalars.count > 40 ? text + "…" : text
}
