/// What a request came to when it could not be done, as RFC 9457 problem details.
package struct Problem: Error, Sendable, Equatable {
    package let status: Int
    /// A closed, stable name of the problem.
    package let code: String
    package let title: String
    /// What happened, what was kept and what to do next; safe to show.
    package let detail: String

    package init(status: Int, code: String, title: String, detail: String) {
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
    }
}
