package import Hummingbird
import HTTPTypes
import NIOCore

/// The door's own pages, plain and in English: what a service shows that was given no others.
package struct PlainPages: PageWriter {
    package init() {}

    package func problem(_ problem: Problem, _ context: SekishoContext) -> Response {
        Self.page(problem.title, Self.told(problem) + "<p><a href=\"/\">Start</a></p>")
    }

    package func signIn(_ page: SignInPage, _ context: SekishoContext) -> Response {
        Self.page(
            "Sign in",
            (page.problem.map(Self.told) ?? "") + """
                <form method="post" action="/sign-in">
                <input type="hidden" name="next" value="\(Self.escape(page.next))">
                <input type="hidden" name="kept" value="\(Self.escape(page.kept ?? ""))">
                <p><label>Name <input name="name" value="\(Self.escape(page.name))" autocomplete="username"></label></p>
                <p><label>Password
                <input type="password" name="password" autocomplete="current-password"></label></p>
                <p><button>Sign in</button></p></form>
                """)
    }

    package func resend(path: String, _ fields: Form, _ context: SekishoContext) -> Response {
        let inputs = fields.fields.map {
            "<p>\(Self.escape($0.name)): \(Self.escape($0.value))"
                + "<input type=\"hidden\" name=\"\(Self.escape($0.name))\" value=\"\(Self.escape($0.value))\"></p>"
        }.joined()
        return Self.page(
            "What you typed is kept",
            """
            <form method="post" action="\(Self.escape(path))">
            <input type="hidden" name="csrf" value="\(context.identity?.csrf ?? "")">\(inputs)
            <p><button>Send it now</button></p></form><p><a href="/">Drop it</a></p>
            """)
    }

    package func password(_ problem: Problem?, _ context: SekishoContext) -> Response {
        Self.page(
            "Change your password",
            (problem.map(Self.told) ?? "") + """
                <form method="post" action="/password">
                <input type="hidden" name="csrf" value="\(context.identity?.csrf ?? "")">
                <p><label>Old <input type="password" name="old" autocomplete="current-password"></label></p>
                <p><label>New <input type="password" name="new" autocomplete="new-password"></label></p>
                <p><label>Again <input type="password" name="again" autocomplete="new-password"></label></p>
                <p><button>Change</button></p></form>
                """)
    }

    private static func told(_ problem: Problem) -> String { "<p role=\"alert\">\(escape(problem.detail))</p>" }

    private static func page(_ title: String, _ body: String) -> Response {
        let html = """
            <!doctype html><html lang="en"><meta charset="utf-8"><title>\(escape(title)) – Sekisho</title>
            <main><h1>\(escape(title))</h1>\(body)</main></html>
            """
        return Response(
            status: .ok, headers: [.contentType: "text/html; charset=utf-8"],
            body: ResponseBody(byteBuffer: ByteBuffer(string: html)))
    }

    static func escape(_ text: String) -> String {
        text.reduce(into: "") { out, character in
            switch character {
            case "&": out += "&amp;"
            case "<": out += "&lt;"
            case ">": out += "&gt;"
            case "\"": out += "&quot;"
            case "'": out += "&#39;"
            default: out.append(character)
            }
        }
    }
}
