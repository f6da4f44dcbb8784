package import Hummingbird
import HTTPTypes
import NIOCore

/// Writes the pages that the door itself needs.
package protocol PageWriter: Sendable {
    /// A page that tells of a problem; the door sets its status.
    func problem(_ problem: Problem, _ context: SekishoContext) -> Response
    func signIn(_ page: SignInPage, _ context: SekishoContext) -> Response
    /// Shows what was typed before the session ended, and offers to send it now: a form with `fields` and the session's
    /// `csrf` that posts to `path`.
    func resend(path: String, _ fields: Form, _ context: SekishoContext) -> Response
    /// The form to change one's password: fields `csrf`, `old`, `new`, `again`.
    func password(_ problem: Problem?, _ context: SekishoContext) -> Response
}

/// The sign-in form: fields `name` and `password`, and hidden `next` and `kept`.
package struct SignInPage: Sendable {
    /// Where to go afterwards, a path of ours.
    package let next: String
    /// What was being typed when the session ended, sealed; goes back in the hidden field `kept`.
    package let kept: String?
    package let problem: Problem?
    /// The name that was typed last.
    package let name: String
}
